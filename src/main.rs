//! The `deepwide` command.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use deepwide::cli::{
    Verbosity, bench, compare, compare_scores, completions, doctor, eval, finish, generate, grow, inspect,
    llama_spelled, man, merge_lora, perplexity, plot, profile, serve, tokenize, train, verify,
};
use deepwide::profile::heap::{COUNTING, CountingAllocator};

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

/// Grow a pretrained decoder language model deep or wide, and measure which pays off.
///
/// Exit codes: 0 done, 1 failure at run time, 2 wrong usage, 3 bad or unsupported configuration or file, 4 input not found,
/// 5 a check failed, 6 too little memory, 128 + N stopped by signal N (130 interrupt, 143 termination).
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
enum Command {
    Grow(Box<grow::GrowArgs>),
    Inspect(inspect::InspectArgs),
    MergeLora(merge_lora::MergeLoraArgs),
    Verify(verify::VerifyArgs),
    Tokenize(tokenize::TokenizeArgs),
    Train(Box<train::TrainArgs>),
    Sft(Box<train::sft::SftArgs>),
    Dpo(Box<train::dpo::DpoArgs>),
    Eval(Box<eval::EvalArgs>),
    Perplexity(Box<perplexity::PerplexityArgs>),
    CompareScores(compare_scores::CompareScoresArgs),
    Generate(Box<generate::GenerateArgs>),
    Serve(Box<serve::ServeArgs>),
    Bench(Box<bench::BenchArgs>),
    Profile(Box<profile::ProfileArgs>),
    Compare(Box<compare::CompareArgs>),
    Plot(plot::PlotArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

fn main() -> ExitCode {
    let words = bench::spelled(llama_spelled(std::env::args_os()));
    let words = match train::expanded(words, &Cli::command()) {
        Ok(words) => words,
        Err(failure) => return finish(Err(failure), false),
    };
    let cli = Cli::parse_from(words);
    cli.verbosity.apply();
    match cli.command {
        Command::Grow(args) => finish(grow::run(&args), args.json),
        Command::Inspect(args) => finish(inspect::run(&args), args.json),
        Command::MergeLora(args) => finish(merge_lora::run(&args), args.json),
        Command::Verify(args) => finish(verify::run(&args), args.json),
        Command::Tokenize(args) => finish(tokenize::run(&args), args.json),
        Command::Train(args) => finish(train::run(&args), args.training.json),
        Command::Sft(args) => finish(train::sft::run(&args), args.training.json),
        Command::Dpo(args) => finish(train::dpo::run(&args), args.training.json),
        Command::Eval(args) => finish(eval::run(&args), args.json),
        Command::Perplexity(args) => finish(perplexity::run(&args), args.json),
        Command::CompareScores(args) => finish(compare_scores::run(&args), args.json),
        Command::Generate(args) => finish(generate::run(&args), args.json),
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Profile(args) => finish(profile::run(&args), args.json),
        Command::Compare(args) => finish(compare::run(&args), args.json),
        Command::Plot(args) => finish(plot::run(&args), args.json),
        Command::Doctor(args) => finish(doctor::run(&args), args.json),
        Command::Completions(args) => finish(completions::run(&args, Cli::command()), false),
        Command::Man(args) => finish(man::run(&args, Cli::command()), false),
    }
}
