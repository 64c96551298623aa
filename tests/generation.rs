//! Generation: many sequences in one batch, each as if it were alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use deepwide::config::{DecoderConfig, ModelType, MoeConfig};
use deepwide::formats::HfDirectory;
use deepwide::generate::{
    Batch, BatchSettings, Chosen, Engine, Event, FinishReason, GenerateError, Output, Progress, Request, Sampling,
    SamplingFields, SequenceId, token_logprob,
};
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::tokenizer::Tokenizer;
use deepwide::trace::executed_flops;
use deepwide::weights::WeightSource;

use crate::models::{load, tokens};
use crate::pico;

const CONTEXT: usize = 64;

fn dense() -> AnyDecoder {
    load(&pico::random_weights(&DecoderConfig::pico(), 5), &pico::device())
}

fn sparse() -> AnyDecoder {
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    let config = DecoderConfig::pico().with(|fields| {
        fields.model_type = ModelType::Mixtral;
        fields.moe = Some(moe);
    });
    load(&pico::random_weights(&config.expect("a mixture"), 5), &pico::device())
}

fn settings(max_sequences: usize) -> BatchSettings {
    BatchSettings { max_sequences, context: CONTEXT }
}

fn sampling(seed: u64) -> Sampling {
    Sampling::new(SamplingFields { temperature: 1.0, seed, ..SamplingFields::default() }).expect("in range")
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), ..Request::new(prompt.to_vec()) }
}

/// Requests of different lengths, samplings and numbers of sequences.
fn requests(vocab_size: usize) -> Vec<Request> {
    let prompt = |salt: u32, len: u32| (0..len).map(|i| (i * 7 + salt) % vocab_size as u32).collect::<Vec<_>>();
    let drawn = |seed, prompt: Vec<u32>, max_tokens, num_sequences| Request {
        sampling: sampling(seed),
        num_sequences,
        ..request(&prompt, max_tokens)
    };
    let mut requests: Vec<Request> = (0..6).map(|i| request(&prompt(i, 1 + 5 * i), 3 + i as usize)).collect();
    requests.extend((0..5).map(|i| drawn(u64::from(i), prompt(i, 2 + i), 20 - i as usize, 1 + i as usize)));
    requests
}

type Tokens = BTreeMap<SequenceId, (Vec<u32>, Option<FinishReason>)>;

/// The tokens of all sequences.
fn run(model: &AnyDecoder, max_sequences: usize, requests: &[Request]) -> Tokens {
    let mut batch = Batch::new(model, settings(max_sequences), &pico::device());
    for request in requests {
        batch.submit(request.clone()).expect("a good request");
    }
    let mut found = Tokens::new();
    while !batch.is_idle() {
        assert!(batch.num_running() <= max_sequences);
        batch.step(&mut |id, event| collect(&mut found, id, event));
    }
    found
}

fn collect(found: &mut Tokens, id: SequenceId, event: Event) -> ControlFlow<()> {
    let (tokens, finish) = found.entry(id).or_default();
    assert_eq!(*finish, None, "nothing after the end");
    match event {
        Event::Token(chosen) => tokens.push(chosen.id),
        Event::Finished(reason) => *finish = Some(reason),
        Event::Prompt(_) => {}
        Event::Failed(error) => panic!("{error}"),
    }
    ControlFlow::Continue(())
}

#[test]
fn a_sequence_has_the_same_tokens_at_any_batch_size_and_number_of_threads() {
    for model in [dense(), sparse()] {
        let requests = requests(model.config().vocab_size);
        let alone: Tokens = requests
            .iter()
            .zip(0..)
            .flat_map(|(request, number)| {
                let found = run(&model, 1, std::slice::from_ref(request));
                found.into_iter().map(move |(id, tokens)| (SequenceId { request: number, ..id }, tokens))
            })
            .collect();
        assert_eq!(alone.len(), requests.iter().map(|request| request.num_sequences).sum::<usize>());
        let distinct: Vec<_> = alone.iter().filter(|(id, _)| id.request == 10).map(|(_, (ids, _))| ids).collect();
        assert!(distinct.windows(2).all(|pair| pair[0] != pair[1]), "sequences of a request differ");
        for max_sequences in [1, 3, 24] {
            assert_eq!(run(&model, max_sequences, &requests), alone, "{max_sequences} at once");
        }
        for num_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("threads");
            assert_eq!(pool.install(|| run(&model, 8, &requests)), alone, "{num_threads} threads");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_the_largest_logits_of_whole_passes() {
    for model in [dense(), sparse()] {
        let mut ids = vec![3, 1, 4];
        let found = run(&model, 2, &[request(&ids, 12)]);
        for chosen in &found[&SequenceId { request: 0, index: 0 }].0 {
            let logits = model.forward(tokens(&[&ids], &pico::device())).logits.into_data();
            let logits: Vec<f32> = logits.iter::<f32>().collect();
            let last = &logits[logits.len() - model.config().vocab_size..];
            let best = (0..last.len()).fold(0, |best, i| if last[i] > last[best] { i } else { best });
            assert_eq!(*chosen as usize, best);
            ids.push(*chosen);
        }
        assert_eq!(ids.len(), 15);
    }
}

#[test]
fn sequences_join_and_leave_while_others_go_on() {
    let model = dense();
    let long = request(&[1, 2, 3], 30);
    let alone = run(&model, 1, std::slice::from_ref(&long));
    let mut batch = Batch::new(&model, settings(3), &pico::device());
    let first = batch.submit(long.clone()).expect("a good request");
    let (mut found, mut cut) = (Tokens::new(), Vec::new());
    let mut numbers = vec![first];
    for step in 0.. {
        if step % 4 == 1 && step < 20 {
            numbers.push(batch.submit(request(&[step, 5], 6)).expect("a good request"));
        }
        if step == 7 {
            batch.cancel(numbers[2]);
        }
        batch.step(&mut |id, event| {
            if numbers.get(1) == Some(&id.request) {
                cut.push(());
                // The listener ends this one at its second token.
                return if cut.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            collect(&mut found, id, event)
        });
        if batch.is_idle() {
            break;
        }
    }
    assert_eq!(cut.len(), 2);
    let id = SequenceId { request: first, index: 0 };
    assert_eq!(found[&id], alone[&SequenceId { request: 0, index: 0 }]);
    assert_eq!(found.values().filter(|(_, finish)| finish.is_some()).count(), numbers.len() - 2);
}

#[test]
fn a_sequence_ends_where_it_should_and_says_why() {
    let model = dense();
    let one = |request: Request| {
        let id = SequenceId { request: 0, index: 0 };
        run(&model, 2, &[request]).remove(&id).expect("a sequence")
    };
    let (ids, reason) = one(request(&[3, 1, 4], 12));
    assert_eq!((ids.len(), reason), (12, Some(FinishReason::MaxTokens)));
    assert_eq!(one(request(&[3, 1, 4], 0)), (Vec::new(), Some(FinishReason::MaxTokens)));
    let stop = ids[4];
    let until = ids.iter().position(|id| *id == stop).expect("it is there") + 1;
    let stopped = Request { stop_tokens: vec![stop], ..request(&[3, 1, 4], 12) };
    assert_eq!(one(stopped), (ids[..until].to_vec(), Some(FinishReason::StopToken(stop))));
    // A stop token in the prompt does not stop.
    let stopped = Request { stop_tokens: vec![4], ..request(&[3, 1, 4], 0) };
    assert_eq!(one(stopped).1, Some(FinishReason::MaxTokens));
    let (ids, reason) = one(Request::new(vec![3, 1, 4]));
    assert_eq!((ids.len(), reason), (CONTEXT - 3, Some(FinishReason::ContextFull)));
    let (ids, reason) = one(request(&[3; CONTEXT - 1], 2));
    assert_eq!((ids.len(), reason), (1, Some(FinishReason::ContextFull)));
    let (ids, reason) = one(request(&[3; CONTEXT], 0));
    assert_eq!((ids.len(), reason), (0, Some(FinishReason::MaxTokens)));
}

#[test]
fn a_prompt_that_cannot_be_continued_is_refused() {
    let model = dense();
    let mut batch = Batch::new(&model, settings(2), &pico::device());
    let mut refusal = |prompt: Vec<u32>| batch.submit(Request::new(prompt)).unwrap_err().to_string();
    assert!(refusal(Vec::new()).starts_with("the prompt is empty"));
    assert_eq!(
        refusal(vec![0; CONTEXT]),
        "the prompt has 64 tokens, expected at most 63: the context has 64, with room for an answer"
    );
    let vocab_size = model.config().vocab_size;
    let refused = refusal(vec![1, vocab_size as u32]);
    assert_eq!(
        refused,
        format!("token {vocab_size} of the prompt is not below {vocab_size}, the size of the vocabulary")
    );
    assert!(batch.is_idle());
}

#[test]
fn log_probabilities_are_those_of_a_whole_pass_and_routing_is_that_of_its_last_position() {
    let model = sparse();
    let prompt = [3, 1, 4, 1, 5];
    let asked =
        Request { logprobs: Some(2), prompt_logprobs: true, routing: true, num_sequences: 2, ..request(&prompt, 3) };
    let mut batch = Batch::new(&model, settings(4), &pico::device());
    batch.submit(asked).expect("a good request");
    let (mut of_prompt, mut chosen) = (Vec::new(), Vec::new());
    while !batch.is_idle() {
        batch.step(&mut |_, event| {
            match event {
                Event::Prompt(prompt) => of_prompt.extend(prompt.logprobs),
                Event::Token(token) => chosen.push(token),
                Event::Finished(_) => {}
                Event::Failed(error) => panic!("{error}"),
            }
            ControlFlow::Continue(())
        });
    }
    assert_eq!(of_prompt.len(), 2);
    assert_eq!(of_prompt[0], of_prompt[1]);
    let output = model.forward(tokens(&[prompt], &pico::device()));
    let vocab_size = model.config().vocab_size;
    let logits: Vec<f32> = output.logits.into_data().iter::<f32>().collect();
    let rows: Vec<&[f32]> = logits.chunks(vocab_size).collect();
    assert_eq!(of_prompt[0][0], None);
    for position in 1..prompt.len() {
        let expected = token_logprob(rows[position - 1], prompt[position], 2);
        let found = of_prompt[0][position].clone().expect("a number");
        assert!((found.logprob - expected.logprob).abs() < 1e-4);
        assert_eq!(found.top.len(), 2);
        assert_eq!(found.top[0].0, expected.top[0].0);
    }
    let first = chosen[0].logprob.clone().expect("asked for");
    assert_eq!(first.top[0], (chosen[0].id, first.logprob), "a greedy token is the likeliest");
    let experts: Vec<u32> = output
        .routing
        .iter()
        .map(|routing| {
            routing.experts.clone().slice([prompt.len() - 1..prompt.len(), 0..1]).into_scalar::<i64>() as u32
        })
        .collect();
    assert_eq!(chosen[0].experts, experts);
    assert!(chosen.iter().all(|token| token.experts.len() == experts.len()));
}

/// Decoders with room for prompts of several chunks: a dense one, one of a window, and a mixture of one.
fn long_decoders() -> [AnyDecoder; 3] {
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    let families = [
        (ModelType::Llama, None, None),
        (ModelType::Mistral, Some(40), None),
        (ModelType::Mixtral, Some(600), Some(moe)),
    ];
    families.map(|(model_type, sliding_window, moe)| {
        let config = DecoderConfig::pico().with(|fields| {
            (fields.model_type, fields.sliding_window, fields.moe) = (model_type, sliding_window, moe);
            (fields.num_hidden_layers, fields.max_position_embeddings) = (2, 2048);
        });
        load(&pico::random_weights(&config.expect("a decoder"), 5), &pico::device())
    })
}

/// What a sequence begins with and consists of.
#[derive(Debug, Default, PartialEq)]
struct Told {
    num_cached: usize,
    num_computed: usize,
    tokens: Vec<Chosen>,
}

/// Continues the requests in a batch, all at once.
fn told<M: CausalLm>(batch: &mut Batch<'_, M>, requests: &[Request]) -> Vec<Told> {
    let mut told: BTreeMap<SequenceId, Told> = BTreeMap::new();
    requests.iter().for_each(|request| assert!(batch.submit(request.clone()).is_ok()));
    while !batch.is_idle() {
        batch.step(&mut |id, event| {
            let told = told.entry(id).or_default();
            match event {
                Event::Prompt(prompt) => {
                    (told.num_cached, told.num_computed) = (prompt.num_cached, prompt.num_computed);
                }
                Event::Token(chosen) => told.tokens.push(chosen),
                Event::Finished(_) => {}
                Event::Failed(error) => panic!("{error}"),
            }
            ControlFlow::Continue(())
        });
    }
    told.into_values().collect()
}

/// Turns of a chat: each begins with most of the one before it.
fn turns(vocab_size: usize) -> [Request; 3] {
    let ids = move |salt: u32, len: u32| (0..len).map(move |i| (i * i + salt) % vocab_size as u32);
    let first: Vec<u32> = ids(1, 700).collect();
    let second: Vec<u32> = first.iter().copied().chain(ids(2, 400)).collect();
    let third: Vec<u32> = second[..1060].iter().copied().chain(ids(3, 200)).collect();
    let turn = |prompt: Vec<u32>, seed| Request {
        sampling: sampling(seed),
        num_sequences: 2,
        logprobs: Some(2),
        routing: true,
        ..request(&prompt, 6)
    };
    [turn(first, 1), turn(second, 2), turn(third, 3)]
}

#[test]
fn turns_have_the_bits_that_they_have_without_the_prompt_cache() {
    for model in long_decoders() {
        let settings = BatchSettings { max_sequences: 4, context: 2048 };
        let batch = || Batch::new(&model, settings, &pico::device());
        let turns = turns(model.config().vocab_size);
        let alone = turns.each_ref().map(|turn| told(&mut batch(), std::slice::from_ref(turn)));
        let mut chat = batch().with_prompt_cache(2048);
        for ((turn, alone), num_cached) in turns.iter().zip(&alone).zip([0, 512, 1024]) {
            let found = told(&mut chat, std::slice::from_ref(turn));
            assert!(found.iter().all(|told| told.num_cached == num_cached), "{num_cached}");
            let tokens = |told: &[Told]| told.iter().map(|told| told.tokens.clone()).collect::<Vec<_>>();
            assert_eq!(tokens(&found), tokens(alone));
        }
        // Turns of other chats come between, all at once.
        let found = told(&mut batch().with_prompt_cache(2048), &turns);
        let alone = alone.iter().flatten();
        assert!(found.iter().zip(alone).all(|(found, alone)| found.tokens == alone.tokens));
        assert_eq!(found.iter().map(|told| told.num_cached).collect::<Vec<_>>(), [0, 0, 512, 512, 1024, 1024]);
    }
}

#[test]
fn cached_tokens_of_a_prompt_are_not_computed() {
    let [model, ..] = long_decoders();
    let settings = BatchSettings { max_sequences: 4, context: 2048 };
    let [first, second, _] = turns(model.config().vocab_size);
    let mut batch = Batch::new(&model, settings, &pico::device()).with_prompt_cache(2048);
    let mut flops = |request: &Request| {
        let (told, flops) = executed_flops(|| told(&mut batch, std::slice::from_ref(request)));
        let Told { num_cached, num_computed, .. } = told[0];
        assert_eq!(num_computed, if request.max_tokens == Some(0) { 0 } else { request.prompt.len() - num_cached });
        (num_cached, flops)
    };
    flops(&first);
    let asked_not = Request { cache_prompt: false, ..second.clone() };
    let (num_cached, whole) = flops(&asked_not);
    assert_eq!(num_cached, 0);
    let (num_cached, rest) = flops(&second);
    assert_eq!(num_cached, 512);
    assert!((0.5..0.8).contains(&(rest as f64 / whole as f64)), "{rest} of {whole}");
    // Log-probabilities of a prompt need all of it.
    let scored = Request { prompt_logprobs: true, ..second.clone() };
    assert_eq!(flops(&scored).0, 0);
    // Without a token to choose, nothing is computed.
    assert_eq!(flops(&Request { max_tokens: Some(0), ..second.clone() }), (0, 0));
    // Nothing is kept of more positions than there may be.
    let mut small = Batch::new(&model, settings, &pico::device()).with_prompt_cache(699);
    let found = [&first, &second].map(|request| told(&mut small, std::slice::from_ref(request))[0].num_cached);
    assert_eq!(found, [0, 0]);
}

/// Words for every id of a vocabulary; the first ones are known.
fn words(vocab_size: usize) -> Tokenizer {
    Tokenizer::word_level(&(0..vocab_size).map(|id| format!("w{id}")).collect::<Vec<_>>())
}

#[test]
fn texts_end_before_a_stop_string_that_goes_over_tokens() {
    let model = dense();
    let tokenizer = words(model.config().vocab_size);
    let mut engine = Engine::new(&model, &tokenizer, settings(4), &pico::device());
    let mut one = |stop: Vec<String>| -> Output {
        let outputs =
            engine.run(vec![(request(&[3, 1, 4], 12), stop)], &mut |_, _| Ok::<(), GenerateError>(())).expect("text");
        outputs.into_iter().flatten().next().expect("one text")
    };
    let whole = one(Vec::new());
    assert_eq!(whole.finish, FinishReason::MaxTokens);
    assert_eq!(whole.tokens.iter().map(|token| token.text.as_str()).collect::<String>(), whole.text);
    let ids: Vec<u32> = whole.tokens.iter().map(|token| token.token.id).collect();
    let (before, after) = (format!("w{}", ids[5]), format!("w{}", ids[6]));
    // The last character of a word, a space, and the first of the next one.
    let stop = format!("{} {}", &before[before.len() - 1..], &after[..2]);
    let cut = one(vec![stop.clone(), "never".to_owned()]);
    assert_eq!(cut.finish, FinishReason::StopString);
    assert_eq!(cut.text, whole.text[..whole.text.find(&stop).expect("it is there")]);
    assert!(cut.tokens.len() <= 6);
    // Of a token of the vocabulary, it is the text that ends the output: it may begin in an earlier token.
    let token = one(vec![before.clone()]);
    assert_eq!(token.finish, FinishReason::StopString);
    assert!(engine.is_idle());
}

#[test]
fn a_nan_logit_ends_the_sequence_with_an_error() {
    let config = DecoderConfig::pico();
    let weights = deepwide::weights::MemoryWeights::new(config.clone(), |id| {
        let tensor = pico::random_weights(&config, 5).read(id).expect("in memory");
        if id == deepwide::weights::TensorId::Norm {
            let values = vec![f32::NAN; config.hidden_size];
            return deepwide::weights::RawTensor::from_f32(tensor.dtype(), tensor.shape().to_vec(), &values);
        }
        tensor
    });
    let model = load(&weights, &pico::device());
    let tokenizer = words(config.vocab_size);
    let mut engine = Engine::new(&model, &tokenizer, settings(2), &pico::device());
    let error = engine.run(vec![(request(&[1], 3), Vec::new())], &mut |_, _| Ok::<(), GenerateError>(())).unwrap_err();
    assert!(matches!(error, GenerateError::NotFinite { position: 0 }), "{error}");
    assert!(engine.is_idle());
    let mut failed = 0;
    engine.submit(request(&[1], 3), Vec::new()).expect("a good request");
    engine.step(&mut |_, progress| {
        failed += usize::from(matches!(progress, Progress::Failed(_)));
        ControlFlow::Continue(())
    });
    assert_eq!(failed, 1);
}

/// transformers' `generate` with `do_sample=False`; `generation/make_generation_golden.py` made the file.
#[test]
fn greedy_tokens_of_tiny_models_are_those_of_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = std::fs::read_to_string(golden.join("generation/greedy.json")).expect("a golden file");
    let cases: BTreeMap<String, Vec<[Vec<u32>; 2]>> = serde_json::from_str(&file).expect("JSON");
    for (name, pairs) in cases {
        let model = load(&HfDirectory::open(&golden.join(&name)).expect("a model"), &pico::device());
        let requests = pairs.iter().map(|[prompt, output]| request(prompt, output.len())).collect::<Vec<_>>();
        let mut batch = Batch::new(&model, BatchSettings { max_sequences: 8, context: 128 }, &pico::device());
        requests.into_iter().for_each(|request| assert!(batch.submit(request).is_ok()));
        let mut found = Tokens::new();
        while !batch.is_idle() {
            batch.step(&mut |id, event| collect(&mut found, id, event));
        }
        for ((_, (ids, _)), [_, expected]) in found.iter().zip(&pairs) {
            assert_eq!(ids, expected, "{name}");
        }
        assert_eq!(found.len(), pairs.len());
    }
}
