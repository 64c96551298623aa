//! Lines of the log, with TRL's keys.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::task::Report;
use crate::train::RouterStats;

/// A line of the log: TRL's keys, and `moe/…` for mixtures. It has no times, so that a resumed run logs the same bytes.
pub type LogEntry = Map<String, Value>;

/// Sums over the updates since the last line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogWindow {
    num_updates: u64,
    sums: Vec<(String, f64)>,
    grad_norm: f64,
    learning_rate: f64,
    visits: Vec<Vec<u64>>,
}

impl LogWindow {
    /// Adds an update.
    pub fn add(&mut self, report: Report, grad_norm: f64, learning_rate: f64) {
        self.num_updates += 1;
        (self.grad_norm, self.learning_rate) = (grad_norm, learning_rate);
        for (key, value) in report.entries {
            match self.sums.iter_mut().find(|(known, _)| known == key) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((key.to_owned(), value)),
            }
        }
        let mut sum: Vec<RouterStats> =
            std::mem::take(&mut self.visits).into_iter().map(|visits| RouterStats { visits }).collect();
        RouterStats::add(&mut sum, report.routers);
        self.visits = sum.into_iter().map(|stats| stats.visits).collect();
    }

    /// Whether no update was added.
    pub fn is_empty(&self) -> bool {
        self.num_updates == 0
    }

    /// The line of these updates: means over them, the norm of the gradient and the learning rate of the last, and the largest
    /// bias of a router if they have one.
    pub fn entry(&self, step: usize, epoch: f64, num_tokens: u64, router_bias: Option<f64>) -> LogEntry {
        let mut entry = LogEntry::new();
        for (key, sum) in &self.sums {
            entry.insert(key.clone(), json!(sum / self.num_updates as f64));
        }
        entry.insert("grad_norm".to_owned(), json!(self.grad_norm));
        entry.insert("learning_rate".to_owned(), json!(self.learning_rate));
        let routers: Vec<RouterStats> =
            self.visits.iter().map(|visits| RouterStats { visits: visits.clone() }).collect();
        if !routers.is_empty() {
            let mean = |of: fn(&RouterStats) -> f64| routers.iter().map(of).sum::<f64>() / routers.len() as f64;
            entry.insert("moe/load_cv".to_owned(), json!(mean(RouterStats::load_cv)));
            entry.insert("moe/entropy".to_owned(), json!(mean(RouterStats::entropy_nats)));
            let dead: usize = routers.iter().map(RouterStats::dead_experts).sum();
            entry.insert("moe/dead_experts".to_owned(), json!(dead));
            entry.extend(router_bias.map(|bias| ("moe/max_bias".to_owned(), json!(bias))));
            for (layer, router) in routers.iter().enumerate() {
                entry.insert(format!("moe/load/L{layer}"), json!(router.load()));
            }
        }
        position(&mut entry, step, epoch, num_tokens);
        entry
    }
}

/// The line of an evaluation.
pub fn eval_entry(loss: f64, step: usize, epoch: f64, num_tokens: u64) -> LogEntry {
    let mut entry = LogEntry::from_iter([("eval_loss".to_owned(), json!(loss))]);
    position(&mut entry, step, epoch, num_tokens);
    entry
}

fn position(entry: &mut LogEntry, step: usize, epoch: f64, num_tokens: u64) {
    entry.insert("num_tokens".to_owned(), json!(num_tokens));
    entry.insert("epoch".to_owned(), json!(epoch));
    entry.insert("step".to_owned(), json!(step));
}

/// Lines as a JSONL file.
pub fn to_jsonl(entries: &[LogEntry]) -> String {
    entries.iter().map(|entry| format!("{}\n", Value::Object(entry.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_means_since_the_last_one() {
        let mut window = LogWindow::default();
        let routers = |visits: [u64; 2]| vec![RouterStats { visits: visits.to_vec() }];
        window.add(Report { entries: vec![("loss", 3.0)], routers: routers([4, 0]) }, 1.0, 0.5);
        window.add(Report { entries: vec![("loss", 1.0)], routers: routers([2, 6]) }, 2.0, 0.25);
        let line = to_jsonl(&[window.entry(2, 0.5, 8, None)]);
        let expected = concat!(
            r#"{"loss":2.0,"grad_norm":2.0,"learning_rate":0.25,"moe/load_cv":0.0,"moe/entropy":0.6931471805599453,"#,
            r#""moe/dead_experts":0,"moe/load/L0":[0.5,0.5],"num_tokens":8,"epoch":0.5,"step":2}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_window_read_back_continues_to_the_bit() {
        let mut window = LogWindow::default();
        window.add(Report { entries: vec![("loss", 0.1 + 0.2)], routers: Vec::new() }, 1.0 / 3.0, 1e-5);
        let read: LogWindow = serde_json::from_str(&serde_json::to_string(&window).unwrap()).unwrap();
        assert_eq!(read, window);
    }
}
