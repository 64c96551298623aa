//! `serve`: a model behind OpenAI's API.

use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, Args};

use super::exit::finish;
use super::failure::Failure;
use super::model::{Loaded, ModelArgs};
use super::values::{byte_count, not_negative, size};
use super::{console, interrupt};
use crate::generate::MAX_SEQUENCES;
use crate::model::CausalLm;
use crate::serve::{Limits, Served, serve, unix_time_s};

/// The variable of the key that clients must send.
const API_KEY: &str = "DEEPWIDE_API_KEY";

/// Serve a model with OpenAI's API, and a chat page
///
/// The paths are /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics and / (the page). Requests are computed
/// in one batch. On a signal, running texts get up to ten seconds to finish. Options of grow (--dus,
/// --moe, ...) grow the model as it is loaded; its --top-k and --seed are --moe-top-k and --growth-seed here.
/// -m FILE, -np and -ngl are understood as llama-server's.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct ServeArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// Address or host name to listen on; 0.0.0.0 listens on all interfaces
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_parser = host, help_heading = "Network")]
    pub host: IpAddr,
    /// Port; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 8080, help_heading = "Network")]
    pub port: u16,
    /// Key that clients have to send, as Authorization: Bearer KEY [default: that of DEEPWIDE_API_KEY, if it is set]
    #[arg(long, value_name = "KEY", help_heading = "Network")]
    pub api_key: Option<String>,
    /// Name of the model in answers [default: the last part of MODEL]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub alias: Option<String>,

    /// Maximum number of texts generated at once
    #[arg(long, visible_alias = "np", value_name = "N", default_value_t = 16, value_parser = parallel, help_heading = "Limits")]
    pub parallel: usize,
    /// Requests that may wait; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true, value_parser = not_negative, help_heading = "Limits")]
    pub queue: usize,
    /// Memory for keys and values of earlier prompts, in MiB; 0 keeps none [default: one context, if available]
    #[arg(long, value_name = "MIB", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Limits")]
    pub cache_ram: Option<usize>,
    /// Maximum tokens per text [default: the context]
    #[arg(long, value_name = "N", value_parser = size, help_heading = "Limits")]
    pub max_tokens: Option<usize>,
    /// Maximum size of a request body
    #[arg(long, value_name = "SIZE", default_value = "4MB", value_parser = byte_count, help_heading = "Limits")]
    pub max_body: u64,
    /// Timeout, in seconds, for a client that stops sending or reading
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = "Limits")]
    pub timeout: u64,
}

/// Leaves the rarer options to `--help`.
fn brief(arg: Arg) -> Arg {
    const RARE: [&str; 4] = ["alias", "cache_ram", "max_body", "timeout"];
    if RARE.contains(&arg.get_id().as_str()) { arg.hide_short_help(true) } else { arg }
}

/// An address, or the first one of a name.
fn host(text: &str) -> Result<IpAddr, String> {
    let resolve = || (text, 0).to_socket_addrs().ok()?.next().map(|address| address.ip());
    text.parse().ok().or_else(resolve).ok_or_else(|| "expected an IP address or a name that has one".to_owned())
}

fn parallel(text: &str) -> Result<usize, String> {
    match not_negative(text)? {
        number if (1..=MAX_SEQUENCES).contains(&number) => Ok(number),
        number => Err(format!("{number} is not from 1 to {MAX_SEQUENCES}")),
    }
}

/// The key that clients must send: that of the command line, else that of the environment.
///
/// # Errors
/// If it is one that no client can send, so that a mistake does not open the server.
fn api_key(args: &ServeArgs) -> Result<Option<String>, Failure> {
    let from_environment = || std::env::var_os(API_KEY).map(|key| key.to_string_lossy().into_owned());
    let (key, name) = match &args.api_key {
        Some(key) => (Some(key.clone()), "--api-key"),
        None => (from_environment(), API_KEY),
    };
    match key {
        Some(key) if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Failure::usage(format_args!("{name}: expected a key of printable ASCII characters without spaces")))
        }
        key => Ok(key),
    }
}

/// Serves a model until a signal, and returns the exit code of the signal, which is no failure here.
pub fn run(args: &ServeArgs) -> ExitCode {
    match (serve_until_signal(args), interrupt::exit_code()) {
        (Ok(()), Some(code)) => {
            console::tell("stopped");
            ExitCode::from(code)
        }
        (result, _) => finish(result, false),
    }
}

/// Serves a model until a signal.
///
/// # Errors
/// If the model cannot be loaded or the address is taken.
fn serve_until_signal(args: &ServeArgs) -> Result<(), Failure> {
    let address = (args.host, args.port);
    let listener = TcpListener::bind(address).map_err(|error| {
        Failure::runtime(format_args!("cannot listen on {}:{}: {error}", args.host, args.port)).for_option("--port")
    })?;
    let api_key = api_key(args)?;
    if !args.host.is_loopback() && api_key.is_none() {
        console::tell("warning: anyone in the network can use this server (--api-key asks for a key)");
    }
    args.model.threads.run(|| {
        let loaded = args.model.load(args.parallel, |_, _| Ok(usize::MAX))?;
        let served = Arc::new(served(args, api_key, &loaded));
        let asked = args.cache_ram.map(|mib| (mib as u128) << 20);
        let max_cached = asked.map_or(loaded.max_cached_positions, |bytes| (bytes / loaded.position_bytes) as usize);
        let engine = loaded.text_model.engine(args.parallel).with_prompt_cache(max_cached);
        interrupt::catch();
        let bound = listener.local_addr().map_err(Failure::runtime)?;
        console::tell(format_args!("listening on http://{bound}"));
        serve(engine, served, listener, || interrupt::caught().is_some()).map_err(Failure::runtime)
    })
}

fn served(args: &ServeArgs, api_key: Option<String>, loaded: &Loaded) -> Served {
    let (num_sparse_layers, num_experts) = loaded.experts().unwrap_or_default();
    let context = loaded.text_model.context();
    Served {
        name: args.alias.clone().unwrap_or_else(|| loaded.name.clone()),
        tokenizer: loaded.text_model.tokenizer.clone(),
        template: loaded.template.clone(),
        vocab_size: loaded.text_model.model.config().vocab_size,
        num_sparse_layers,
        num_experts,
        limits: Limits {
            parallel: args.parallel,
            queue: args.queue,
            context,
            max_tokens: args.max_tokens.unwrap_or(context).min(context),
            body_bytes: usize::try_from(args.max_body).unwrap_or(usize::MAX),
            timeout: Duration::from_secs(args.timeout),
        },
        api_key,
        created: unix_time_s(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert!(host("localhost").unwrap().is_loopback());
        assert_eq!(host("0.0.0.0").unwrap().to_string(), "0.0.0.0");
        assert!(host("no host").is_err());
    }
}
