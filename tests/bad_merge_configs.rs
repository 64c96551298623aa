//! Merge configs that break a rule: each is refused with its place and its reason, and nothing panics.

use deepwide::config::DecoderConfig;
use deepwide::growth::mergekit::{MergeConfig, MergeRule, MoeMergeOptions};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DUS: &str = "slices:
  - sources: [{ model: org/base, layer_range: [0, 6] }]
  - sources: [{ model: org/base, layer_range: [2, 8] }]
merge_method: passthrough
dtype: bfloat16
";

const MOE: &str = "base_model: org/base
gate_mode: random
experts_per_token: 2
experts:
  - source_model: org/base
  - source_model: org/chat@main
    noise_scale: 0.01
";

/// What is said of a config, planned for models of eight layers, and its warnings.
fn told(text: impl AsRef<[u8]>) -> String {
    let base = DecoderConfig::pico();
    told_of(text, |_| base.clone())
}

fn told_of(text: impl AsRef<[u8]>, config_of: impl Fn(&str) -> DecoderConfig) -> String {
    let told = MergeConfig::parse("a.yml", text.as_ref()).and_then(|config| {
        let configs: Vec<DecoderConfig> = config.models().iter().map(|model| config_of(&model.path)).collect();
        let configs: Vec<&DecoderConfig> = configs.iter().collect();
        let (made, warnings) = match &config {
            MergeConfig::Passthrough(config) => {
                let plan = config.plan(&configs)?;
                (plan.to_string(), config.warnings(&plan, &configs))
            }
            MergeConfig::Moe(config) => {
                let plan = config.plan(&configs, &MoeMergeOptions::default())?;
                (format!("{:?}", plan.config().moe.expect("experts")), config.warnings())
            }
        };
        let notices = config.notices().iter().map(|notice| format!("note: {notice}"));
        let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
        Ok(std::iter::once(made).chain(notices).chain(warnings).collect::<Vec<_>>().join("\n"))
    });
    told.unwrap_or_else(|error| error.to_string())
}

fn all(configs: &[String]) -> String {
    configs.iter().map(told).collect::<Vec<_>>().join("\n")
}

fn slices(ranges: &[&str]) -> String {
    let slices = ranges.iter().map(|range| format!("- sources: [{{model: org/base, layer_range: {range}}}]\n"));
    format!("slices:\n{}merge_method: passthrough\n", slices.collect::<String>())
}

#[test]
fn the_two_examples_are_fine() {
    assert_eq!(told(DUS), "org/base 0..6 ++ org/base 2..8 (12 layers)");
    assert_eq!(told(MOE), "MoeConfig { num_local_experts: 2, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 }");
}

#[test]
fn e4_to_e9_ranges_of_layers() {
    insta::assert_snapshot!(all(&[
        slices(&["[24, 8]"]),
        slices(&["[0, 40]"]),
        slices(&["[8, 8]"]),
        slices(&["[0, 6]", "[2, 8]"]),
        slices(&["[0, 2]", "[5, 6]"]),
        slices(&["[0, 8]"; 129]),
        slices(&["[0, 8, 1]"]),
        slices(&["{start: 0, end: 8}"]),
        slices(&["[0, 18446744073709551615]"]),
        slices(&["[0, 18446744073709551616]"]),
    ]), @r####"
"a.yml": line 2, column 44: layer_range is [24, 8], which is reversed, expected an end above the start
"a.yml": line 2, column 44: layer_range is [0, 40], expected an end of at most 8, the layers of "org/base"
"a.yml": line 2, column 44: layer_range is [8, 8], which is empty, expected an end above the start
org/base 0..6 ++ org/base 2..8 (12 layers)
org/base 0..2 ++ org/base 5..6 (3 layers)
warning: no slice has layers 2 to 4, 6 to 7: they are left out
"a.yml": line 130, column 44: the result has 1032 layers, expected at most 1024
"a.yml": line 2, column 44: layer_range is a list of 3, expected a start and an end
"a.yml": line 2, column 44: layer_range is a mapping, expected a list
"a.yml": line 2, column 44: layer_range is [0, 18446744073709551615], expected an end of at most 8, the layers of "org/base"
"a.yml": line 2, column 48: layer_range is 18446744073709551616, expected a smaller whole number
"####);
}

#[test]
fn e10_models_of_another_shape() {
    let two = DUS.replacen("org/base", "org/other", 1);
    let with = |change: fn(&mut deepwide::config::DecoderFields)| {
        told_of(&two, move |model| {
            let base = DecoderConfig::pico();
            if model == "org/other" { base.with(change).expect("a shape") } else { base }
        })
    };
    let moe = told_of(MOE, |model| {
        let base = DecoderConfig::pico();
        if model == "org/chat" { base.with(|f| f.intermediate_size = 100).expect("a shape") } else { base }
    });
    let same = with(|f| (f.max_position_embeddings, f.num_hidden_layers) = (99, 12));
    insta::assert_snapshot!([
        with(|f| (f.vocab_size, f.rms_norm_eps) = (449, 1e-6)),
        with(|f| f.rope_theta = 1e6),
        with(|f| f.tie_word_embeddings = false),
        moe,
        same,
    ].join("\n"), @r####"
"a.yml": line 3, column 47: "org/other" and "org/base" differ: vocab_size 449 and 448, rms_norm_eps 1e-6 and 0.00001
"a.yml": line 3, column 47: "org/other" and "org/base" differ: rope_theta 1000000.0 and 10000.0
"a.yml": line 3, column 47: "org/other" and "org/base" differ: tie_word_embeddings false and true
"a.yml": line 6, column 5: "org/base" and "org/chat@main" differ: intermediate_size 336 and 100
org/other 0..6 ++ org/base 2..8 (12 layers)
warning: no slice has layers 8 to 11: they are left out
"####);
}

#[test]
fn e12_to_e20_experts() {
    let set = |key: &str, value: &str| {
        let line = MOE.lines().find(|line| line.trim_start().starts_with(key)).expect("a line");
        MOE.replace(line, &format!("{}{key}: {value}", &line[..line.len() - line.trim_start().len()]))
    };
    let prompts = |first: &str, second: &str| {
        format!(
            "base_model: b\ngate_mode: hidden\nexperts:\n- source_model: b\n  positive_prompts: {first}\n\
             - source_model: c\n  positive_prompts: {second}\n"
        )
    };
    insta::assert_snapshot!(all(&[
        "base_model: b\nexperts: []\ngate_mode: random\n".to_owned(),
        "base_model: b\nexperts: [{source_model: b}]\ngate_mode: random\nexperts_per_token: 1\n".to_owned(),
        set("experts_per_token", "0"),
        set("experts_per_token", "3"),
        set("noise_scale", "-0.1"),
        set("noise_scale", ".nan"),
        set("noise_scale", "1e30"),
        set("gate_mode", "randon"),
        prompts("[]", "[sums]"),
        prompts("[code]", "[sums, '']"),
        prompts("[code]", "[code]"),
        prompts("[code]", "[sums]"),
        prompts("code", "[sums]"),
        "base_model: b\nexperts: [{source_model: b}]\nshared_experts: [{source_model: b}]\n".to_owned(),
        "base_model: b\nexperts: [{source_model: b}]\narchitecture: qwen\n".to_owned(),
        "base_model: b\nexperts: 3\n".to_owned(),
    ]), @r####"
"a.yml": line 1, column 1: experts_per_token is 2, expected at most the number of experts, 0
MoeConfig { num_local_experts: 1, num_experts_per_tok: 1, router_aux_loss_coef: 0.02 }
warning: there is 1 expert: the router has nothing to decide
"a.yml": line 3, column 20: experts_per_token is 0, expected at least 1
"a.yml": line 3, column 20: experts_per_token is 3, expected at most the number of experts, 2
"a.yml": line 7, column 18: noise_scale is -0.1, expected a number from 0 to 1
"a.yml": line 7, column 18: noise_scale is .nan, expected a finite number
"a.yml": line 7, column 18: noise_scale is 1000000000000000000000000000000, expected a number from 0 to 1
"a.yml": line 2, column 12: gate_mode is text "randon", which is not supported, expected hidden, hidden_avg, hidden_last, cheap_embed, random or uniform_random; did you mean random?
"a.yml": line 4, column 3: expert 0 has no text in its positive_prompts, expected some for gate_mode hidden
"a.yml": line 6, column 3: expert 1 has no text in its positive_prompts, expected some for gate_mode hidden
"a.yml": line 6, column 3: all experts have the same prompts, expected different ones for gate_mode hidden
"a.yml": line 1, column 1: gate_mode hidden needs router rows computed from the prompts, and none are given
"a.yml": line 5, column 21: positive_prompts is text "code", expected a list
"a.yml": line 3, column 17: shared_experts is a list of 1, which is not supported, expected none: a Mixtral has no shared expert
"a.yml": line 3, column 15: architecture is text "qwen", which is not supported, expected mixtral
"a.yml": line 2, column 10: experts is 3, expected a list
"####);
}

#[test]
fn e23_to_e25_methods_and_features_that_growing_has_no_use_for() {
    let method = |name: &str| DUS.replace("passthrough", name);
    let add = |line: &str| format!("{DUS}{line}\n");
    let model = |reference: &str| DUS.replacen("org/base", reference, 1);
    insta::assert_snapshot!(all(&[
        method("slerp"),
        method("ties"),
        method("pasthrough"),
        method("[passthrough]"),
        DUS.replace("merge_method: passthrough\n", ""),
        model("org/base+org/lora"),
        model("{model: org/base, lora: org/lora}"),
        model("{model: org/base, override_architecture: LlamaForCausalLM}"),
        model("a@b@c"),
        model("'@main'"),
        model("8"),
        model("''"),
        add("tokenizer_source: union"),
        add("tokenizer: {source: base, tokens: {a: {source: org/base}}}"),
        add("tokenizer: {source: base, pad_to_multiple_of: 64}"),
        add("tokenizer: {tokens: {}}"),
        add("tokenizer_source: base\ntokenizer: {source: base}"),
        add("chat_template: vicuna"),
        add("dtype: float64").replacen("dtype: bfloat16\n", "", 1),
        DUS.replace("bfloat16", "bfloat"),
        add("models: [{model: org/base}]"),
        "merge_method: passthrough\n".to_owned(),
        "merge_method: passthrough\nmodules: {text_decoder: {}}\n".to_owned(),
        "merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n".to_owned(),
        DUS.replace("[{ model", "[{ model: x, layer_range: [0, 1] }, { model"),
        DUS.replacen("  - sources", "  - residual_weight: 0.5\n    sources", 1),
    ]), @r####"
"a.yml": line 4, column 15: merge_method is text "slerp", which is not supported, expected passthrough: growing copies layers, it does not average them
"a.yml": line 4, column 15: merge_method is text "ties", which is not supported, expected passthrough: growing copies layers, it does not average them
"a.yml": line 4, column 15: merge_method is text "pasthrough", which is not supported, expected passthrough: growing copies layers, it does not average them; did you mean passthrough?
"a.yml": line 4, column 15: merge_method is a list of 1, expected text
"a.yml": line 1, column 1: the config has no merge_method, expected one
"a.yml": line 2, column 24: model is text "org/base+org/lora", which is not supported, expected one without +adapter: merge the adapter in first
"a.yml": line 2, column 48: lora is text "org/lora", which is not supported, expected a model without an adapter: merge it in first
"a.yml": line 2, column 65: override_architecture is text "LlamaForCausalLM", which is not supported, expected the architecture that the model has
"a.yml": line 2, column 24: found model "a@b@c", expected a path or a hub id, with at most one @revision
"a.yml": line 2, column 24: found model "@main", expected a path or a hub id, with at most one @revision
"a.yml": line 2, column 24: model is 8, expected text
"a.yml": line 2, column 24: found model "", expected a path or a hub id, with at most one @revision
"a.yml": line 6, column 19: the tokenizer's source is text "union", which is not supported, expected base or a model: growing adds no token
"a.yml": line 6, column 35: tokens is a mapping, which is not supported, expected none: growing changes no embedding
"a.yml": line 6, column 47: pad_to_multiple_of is 64, which is not supported, expected none: growing adds no token
"a.yml": line 6, column 12: tokenizer has no source, expected one
"a.yml": line 7, column 12: both tokenizer_source and tokenizer are given, expected one of them
"a.yml": line 6, column 16: chat_template is text "vicuna", which is not supported, expected auto, the Jinja template itself, or alpaca, chatml, exaone, llama3, mistral
"a.yml": line 5, column 8: dtype is text "float64", which is not supported, expected float32, float16 or bfloat16; did you mean float32?
"a.yml": line 5, column 8: dtype is text "bfloat", which is not supported, expected float32, float16 or bfloat16; did you mean bfloat16?
"a.yml": line 6, column 9: the config has slices and models, expected exactly one of slices, models and modules
"a.yml": line 1, column 1: the config has none, expected exactly one of slices, models and modules
"a.yml": line 2, column 11: "text_decoder" is not a key of modules
"a.yml": line 2, column 9: models is a list of 2, which is not supported, expected a list of one model: passthrough copies
"a.yml": line 2, column 14: sources is a list of 2, which is not supported, expected a list of one source: passthrough copies
"a.yml": line 2, column 22: residual_weight is 0.5, which is not supported, expected a slice without one: passthrough copies
"####);
}

#[test]
fn e26_to_e30_yaml() {
    let levels = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        bomb += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    insta::assert_snapshot!(all(&[
        MOE.replace("noise_scale", "nosie_scale"),
        DUS.replace("layer_range", "layer_rang"),
        format!("{DUS}zzz: 1\n"),
        format!("{DUS}parameters: {{weight: 1}}\n"),
        format!("{DUS}dtype: float16\n"),
        DUS.replace("[0, 6]", "[0, 6], layer_range: [0, 7]"),
        bomb,
        levels(100_000),
        levels(40),
        "- ".repeat(1000),
        "#".repeat((1 << 20) + 1),
        slices(&["[no, 8]"]),
        slices(&["[0, 1_000]"]),
        slices(&["[0, 0o10]"]),
        slices(&["[0, .nan]"]),
        slices(&["[0, 1e3]"]),
        slices(&["[0, \"8\"]"]),
        slices(&["[0, \"08\"]"]),
        slices(&["[0, \"\"]"]),
        slices(&["[0, 08]"]),
        slices(&["[0, 8.0]"]),
        slices(&["[-1, 8]"]),
        slices(&["[0, ~]"]),
        DUS.replace("  - sources", "\t- sources"),
        format!("{DUS}---\n{DUS}"),
        DUS.replace("org/base", "!!python/object/apply:os.system [rm]"),
        DUS.replace("[0, 6]", "!range [0, 6]"),
        DUS.replace("[0, 6]", "*nowhere"),
        DUS.replace("[0, 6]", "&a [*a]"),
        DUS.replace("{ model", "{ <<: 3, model"),
        DUS.replace("[0, 6] }]", "[0, 6] }"),
        String::new(),
        "- a\n- b\n".to_owned(),
        "[1, 2]: 3\n".to_owned(),
        format!("{DUS}parameters: {{scale: '0.5'}}\n"),
        format!("{DUS}parameters: {{scale: 'half'}}\n"),
        format!("{DUS}parameters: {{scale: ''}}\n"),
        format!("{DUS}parameters: {{scale: .inf}}\n"),
        format!("{DUS}parameters: {{scale: 1e400}}\n"),
        format!("{DUS}parameters: {{scale: [1, no]}}\n"),
        format!("{DUS}parameters: {{scale: [{{filter: mlp}}]}}\n"),
        format!("{DUS}parameters: {{scale: 012}}\n"),
    ]), @r####"
"a.yml": line 7, column 5: "nosie_scale" is not a key of an expert; did you mean noise_scale?
"a.yml": line 2, column 34: "layer_rang" is not a key of a source; did you mean layer_range?
"a.yml": line 6, column 1: "zzz" is not a key of the config
"a.yml": line 6, column 14: "weight" is not a key of the parameters of passthrough
org/base 0..6 ++ org/base 2..8 (12 layers)
note: line 6, column 1: key "dtype" is given again, and replaces the one above
org/base 0..7 ++ org/base 2..8 (13 layers)
note: line 2, column 55: key "layer_range" is given again, and replaces the one above
"a.yml": line 5, column 15: with its aliases expanded the file has more than 20000 values or 4194304 bytes of text, expected fewer: is it an alias bomb?
"a.yml": line 1, column 33: lists and mappings are nested more than 32 deep, expected fewer levels
"a.yml": line 1, column 33: lists and mappings are nested more than 32 deep, expected fewer levels
"a.yml": line 1, column 65: lists and mappings are nested more than 32 deep, expected fewer levels
"a.yml": line 1, column 1: the file has 1048577 bytes, expected at most 1048576
"a.yml": line 2, column 45: layer_range is no, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is 1_000, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is 0o10, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is .nan, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is 1e3, expected a whole number of at least 0, in digits
org/base 0..8 (8 layers)
"a.yml": line 2, column 48: layer_range is text "08", expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is text "", expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is 08, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is 8.0, expected a whole number of at least 0, in digits
"a.yml": line 2, column 45: layer_range is -1, expected a whole number of at least 0, in digits
"a.yml": line 2, column 48: layer_range is nothing, expected a whole number of at least 0, in digits
"a.yml": line 2, column 2: a tab indents the line, expected spaces
"a.yml": line 7, column 1: a second document begins, expected one: several (mergekit-multi) are not supported
"a.yml": line 2, column 56: tag "!!python/object/apply:os.system" is not supported, expected plain YAML without tags
"a.yml": line 2, column 54: tag "!range" is not supported, expected plain YAML without tags
"a.yml": line 2, column 47: the alias names no anchor before it, expected one
"a.yml": line 2, column 51: the alias is inside the anchor that it names, expected it outside
"a.yml": line 2, column 21: << has another value, expected a mapping or a list of mappings
"a.yml": line 3, column 3: "-" is only valid inside a block, expected YAML
"a.yml": line 1, column 1: the config is nothing, expected a mapping
"a.yml": line 1, column 1: the config is a list of 2, expected a mapping
"a.yml": line 1, column 1: a key is a list of 2, expected text
org/base 0..6 ++ org/base 2..8 (12 layers)
"a.yml": line 6, column 21: scale is text "half", expected a finite number
"a.yml": line 6, column 21: scale is text "", expected a finite number
"a.yml": line 6, column 21: scale is .inf, expected a finite number
"a.yml": line 6, column 21: scale is 1e400, expected a finite number
"a.yml": line 6, column 25: scale is no, expected a finite number
"a.yml": line 6, column 22: scale has no value, expected one
"a.yml": line 6, column 21: scale is 012, expected a finite number
"####);
    assert_eq!(told(b"slices: \xff\n"), "\"a.yml\": line 1, column 9: byte 0xff is not UTF-8, expected YAML text");
}

#[test]
fn a_key_at_the_top_that_holds_an_anchor_is_passed_over_and_another_is_not() {
    let used = DUS.replace("dtype: bfloat16", "dtype: *type");
    insta::assert_snapshot!(all(&[
        format!("types: {{a: &type bfloat16}}\n{used}"),
        format!("settings:\n  - &type bfloat16\n{used}"),
        format!("unused: &x 1\n{DUS}"),
        format!("experts_too: &x 1\n{MOE}"),
        format!("parmeters: {{scale: 0}} # &x\n{DUS}"),
        format!("note: 'R &D'\n{DUS}"),
        DUS.replacen("{ model", "{ extra: &x 1, model", 1),
    ]), @r####"
org/base 0..6 ++ org/base 2..8 (12 layers)
note: line 1, column 1: "types" is not a key of mergekit; only its anchors are used
org/base 0..6 ++ org/base 2..8 (12 layers)
note: line 1, column 1: "settings" is not a key of mergekit; only its anchors are used
org/base 0..6 ++ org/base 2..8 (12 layers)
note: line 1, column 1: "unused" is not a key of mergekit; only its anchors are used
MoeConfig { num_local_experts: 2, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 }
note: line 1, column 1: "experts_too" is not a key of mergekit; only its anchors are used
"a.yml": line 1, column 1: "parmeters" is not a key of the config; did you mean parameters?
"a.yml": line 1, column 1: "note" is not a key of the config
"a.yml": line 2, column 17: "extra" is not a key of a source
"####);
}

#[test]
fn hostile_names_are_escaped_and_cut() {
    let key = format!("\"\\e[31m{}\": 1\n", "x".repeat(1000));
    let message = told(format!("{DUS}{key}"));
    assert!(message.contains(r"\u{1b}[31mxxx") && !message.contains('\u{1b}'), "{message}");
    assert!(message.len() < 400, "{} bytes", message.len());
    let message = told(DUS.replace("passthrough", &format!("\"\\a{}\"", "y".repeat(1000))));
    assert!(!message.contains('\u{7}') && message.len() < 500, "{message}");
}

/// Changes of a config as a person or a machine might make them, and as nobody would.
fn mutated(rng: &mut ChaCha8Rng) -> Vec<u8> {
    const PIECES: [&str; 40] = [
        "slices",
        "sources",
        "model",
        "layer_range",
        "merge_method",
        "passthrough",
        "experts",
        "source_model",
        "base_model",
        "gate_mode",
        "parameters",
        "scale",
        "filter",
        "value",
        "dtype",
        "tokenizer",
        "modules",
        "default",
        "&a ",
        "*a",
        "<<: *a",
        "<<",
        "!!str ",
        "!x ",
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "\n",
        "\n---\n",
        "\t",
        "\"",
        "'",
        "|\n",
        "~",
        ".nan",
        "18446744073709551616",
        "-1",
    ];
    const WHOLE: [&str; 2] = [DUS, MOE];
    let mut lines: Vec<String> = WHOLE.choose(rng).expect("two").lines().map(|line| format!("{line}\n")).collect();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..lines.len());
        match rng.random_range(0..8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[rng.random_range(0..lines.len())].clone()),
            2 => lines.swap(at, 0),
            3 => lines[at].insert_str(0, &" ".repeat(rng.random_range(1..5))),
            4 => lines[at] = lines[at].trim_start().to_owned(),
            _ => {
                let piece = PIECES.choose(rng).expect("pieces");
                let words: Vec<usize> = lines[at].char_indices().map(|(i, _)| i).collect();
                let from = *words.choose(rng).unwrap_or(&0);
                if rng.random_bool(0.5) {
                    lines[at].insert_str(from, piece);
                } else {
                    let word = lines[at][from..].find([' ', ',', ':']).map_or(lines[at].len(), |end| from + end);
                    lines[at].replace_range(from..word, piece);
                }
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    let mut bytes = lines.concat().into_bytes();
    if rng.random_bool(0.2) && !bytes.is_empty() {
        let at = rng.random_range(0..bytes.len());
        bytes[at] = rng.random();
    }
    bytes
}

/// Which rule it is.
fn rule_of(rule: &MergeRule) -> String {
    let shown = format!("{rule:?}");
    shown.split(['{', ')']).next().unwrap_or_default().to_owned()
}

#[test]
fn no_change_of_a_config_makes_it_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    let base = DecoderConfig::pico();
    let (mut planned, mut refused) = (0, std::collections::HashSet::new());
    for _ in 0..100_000 {
        let bytes = mutated(&mut rng);
        match MergeConfig::parse("a.yml", &bytes) {
            Err(error) => {
                assert!(error.to_string().len() < 1000, "{error}");
                refused.insert(rule_of(&error.fault.rule));
            }
            Ok(config) => {
                let configs = vec![&base; config.models().len()];
                let is_planned = match &config {
                    MergeConfig::Passthrough(config) => config.plan(&configs).is_ok(),
                    MergeConfig::Moe(config) => config.plan(&configs, &MoeMergeOptions::default()).is_ok(),
                };
                planned += usize::from(is_planned);
            }
        }
    }
    assert!(planned > 1000, "{planned} of the changed configs still work: the changes are too wild");
    assert!(refused.len() > 12, "{} rules were broken: the changes are too tame", refused.len());
}
