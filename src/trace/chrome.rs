//! Spans in the Trace Event Format of Perfetto and `chrome://tracing`.

use serde_json::{Value, json};

use super::recorder::Span;

/// A trace with one track per record, each starting at 0; times are in microseconds.
pub fn to_chrome_json<'a>(records: impl IntoIterator<Item = (&'a str, &'a [Span])>) -> String {
    let mut events = Vec::new();
    for (track, (name, spans)) in records.into_iter().enumerate() {
        let track = track + 1;
        let named = json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name}});
        events.push(named);
        events.extend(spans.iter().map(|span| event(track, span)));
    }
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", lines.join(",\n"))
}

fn event(track: usize, span: &Span) -> Value {
    let [ts, dur] = [span.start_ns, span.duration_ns].map(|ns| ns as f64 / 1e3);
    let name = span.index.map_or_else(|| span.name.to_owned(), |index| format!("{} {index}", span.name));
    json!({"name": name, "ph": "X", "pid": 1, "tid": track, "ts": ts, "dur": dur})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_a_named_track_of_complete_events() {
        let span = Span {
            name: "layer",
            index: Some(3),
            depth: 0,
            start_ns: 1500,
            duration_ns: 250,
            flops: 0,
            bytes: 0,
            backward_flops: 0,
            backward_bytes: 0,
        };
        let json = to_chrome_json([("pp4", [span].as_slice()), ("tg \"1\"", &[])]);
        let trace: Value = serde_json::from_str(&json).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        assert_eq!(events[0]["args"]["name"], "pp4");
        assert_eq!(events[1], json!({"name": "layer 3", "ph": "X", "pid": 1, "tid": 1, "ts": 1.5, "dur": 0.25}));
        assert_eq!((&events[2]["args"]["name"], &events[2]["tid"]), (&json!("tg \"1\""), &json!(2)));
    }
}
