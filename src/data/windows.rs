//! Documents as windows of a fixed length.

use std::borrow::Borrow;
use std::iter;

use super::document::Document;
use super::error::DataError;

/// Windows of `seq_length` inputs and `seq_length` targets, each the token after its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    seq_length: usize,
    /// `[num_windows, seq_length + 1]`, row-major.
    ids: Vec<u32>,
    /// Of the targets: `[num_windows, seq_length]`, row-major.
    logprobs: Option<Vec<f64>>,
    /// Of the targets: `[num_windows, seq_length]`, row-major.
    topics: Option<Vec<usize>>,
    num_dropped: usize,
}

impl Windows {
    /// Packs documents into `num_windows` windows, each of which starts at the start of a document. The last document of a
    /// window is truncated and its rest dropped. Documents without ids are skipped.
    ///
    /// The log-probabilities of the documents are then exact conditionals of the window: everything that a token depends
    /// on, its document up to it, is in the window, and it is independent of the documents before. The first id of a later
    /// document keeps its own log-probability, which is 0 if every document begins with the same id and marks its end.
    ///
    /// # Errors
    /// [`DataError::TooFewWindows`] if the documents run out.
    ///
    /// # Panics
    /// If `seq_length` or `num_windows` is 0, if only some documents have log-probabilities or a topic, or if a document has
    /// not exactly one log-probability per id.
    pub fn aligned<D: Borrow<Document>>(
        documents: impl IntoIterator<Item = D>,
        seq_length: usize,
        num_windows: usize,
    ) -> Result<Self, DataError> {
        assert!(seq_length > 0 && num_windows > 0, "{num_windows} windows of {seq_length} tokens");
        let mut windows = Aligned::default();
        let mut documents = documents.into_iter();
        for found in 0..num_windows {
            if !windows.fill_one(&mut documents, seq_length + 1) {
                return Err(DataError::TooFewWindows { found, expected: num_windows, seq_length });
            }
        }
        let Aligned { ids, logprobs, topics, num_dropped } = windows;
        let (logprobs, topics) = (of_targets(logprobs, seq_length), of_targets(topics, seq_length));
        Ok(Self { seq_length, ids, logprobs, topics, num_dropped })
    }

    /// Joins the documents to one stream and cuts it into consecutive windows.
    ///
    /// Every token of the stream except the first is the target of exactly one window, up to a rest that fills no window.
    /// Log-probabilities and topics are dropped: a window may start inside a document, whose log-probabilities would not be
    /// conditionals of the window.
    ///
    /// # Errors
    /// [`DataError::TooFewTokens`] if the stream does not fill one window.
    ///
    /// # Panics
    /// If `seq_length` is 0.
    pub fn contiguous(documents: &[Document], seq_length: usize) -> Result<Self, DataError> {
        assert!(seq_length > 0, "windows of 0 tokens");
        let stream: Vec<u32> = documents.iter().flat_map(|document| &document.ids).copied().collect();
        let num_windows = stream.len().saturating_sub(1) / seq_length;
        if num_windows == 0 {
            return Err(DataError::TooFewTokens { found: stream.len(), expected: seq_length + 1 });
        }
        let first_ids = (0..num_windows).map(|window| window * seq_length);
        let ids = first_ids.flat_map(|first| stream[first..=first + seq_length].iter().copied()).collect();
        let num_dropped = stream.len() - (num_windows * seq_length + 1);
        Ok(Self { seq_length, ids, logprobs: None, topics: None, num_dropped })
    }

    /// Splits off the last `fraction` of the windows, rounded, at least one on each side. Returns `(train, heldout)`.
    ///
    /// No target is on both sides. One token is: the last target of a contiguous window is the first input of the next.
    ///
    /// # Errors
    /// [`DataError::TooFewWindows`] for a single window.
    ///
    /// # Panics
    /// If `fraction` is not between 0 and 1.
    pub fn split_heldout(mut self, fraction: f64) -> Result<(Self, Self), DataError> {
        assert!(fraction > 0.0 && fraction < 1.0, "fraction {fraction} is not between 0 and 1");
        let (num_windows, seq_length) = (self.len(), self.seq_length);
        if num_windows < 2 {
            return Err(DataError::TooFewWindows { found: num_windows, expected: 2, seq_length });
        }
        let num_heldout = ((num_windows as f64 * fraction).round() as usize).clamp(1, num_windows - 1);
        let first = num_windows - num_heldout;
        let heldout = Self {
            seq_length,
            ids: self.ids.split_off(first * (seq_length + 1)),
            logprobs: self.logprobs.as_mut().map(|logprobs| logprobs.split_off(first * seq_length)),
            topics: self.topics.as_mut().map(|topics| topics.split_off(first * seq_length)),
            num_dropped: 0,
        };
        Ok((self, heldout))
    }

    /// Keeps the first `num_windows` windows, or all if there are fewer.
    ///
    /// # Panics
    /// If `num_windows` is 0.
    pub fn first(mut self, num_windows: usize) -> Self {
        assert!(num_windows > 0, "there is always a window");
        self.ids.truncate(num_windows * (self.seq_length + 1));
        self.logprobs.iter_mut().for_each(|logprobs| logprobs.truncate(num_windows * self.seq_length));
        self.topics.iter_mut().for_each(|topics| topics.truncate(num_windows * self.seq_length));
        self
    }

    /// Number of windows, never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is always a window")]
    pub fn len(&self) -> usize {
        self.ids.len() / (self.seq_length + 1)
    }

    /// Inputs per window, which are as many as its targets.
    pub fn seq_length(&self) -> usize {
        self.seq_length
    }

    /// Tokens of the documents that are in no window.
    pub fn num_dropped(&self) -> usize {
        self.num_dropped
    }

    /// The tokens of a window that a model reads: `[seq_length]`.
    ///
    /// # Panics
    /// If `window` is out of range.
    pub fn inputs(&self, window: usize) -> &[u32] {
        &self.row(window)[..self.seq_length]
    }

    /// The token that follows each input: `[seq_length]`.
    ///
    /// # Panics
    /// If `window` is out of range.
    pub fn targets(&self, window: usize) -> &[u32] {
        &self.row(window)[1..]
    }

    /// Topic of the target at a position, if the documents have topics.
    ///
    /// # Panics
    /// If `window` or `position` is out of range.
    pub fn topic(&self, window: usize, position: usize) -> Option<usize> {
        assert!(position < self.seq_length, "position {position} of {}", self.seq_length);
        self.topics.as_ref().map(|topics| topics[window * self.seq_length + position])
    }

    /// Loss of a model that knows the distribution of the documents: the mean of `−logprob` over all targets, in nats.
    pub fn floor_nats(&self) -> Option<f64> {
        self.logprobs.as_ref().map(|logprobs| -logprobs.iter().sum::<f64>() / logprobs.len() as f64)
    }

    fn row(&self, window: usize) -> &[u32] {
        let width = self.seq_length + 1;
        &self.ids[window * width..(window + 1) * width]
    }
}

/// Windows under construction, one entry per token.
#[derive(Default)]
struct Aligned {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    topics: Vec<usize>,
    num_dropped: usize,
}

impl Aligned {
    /// Appends `width` tokens, from the start of a document; `false` if the documents run out.
    fn fill_one<D: Borrow<Document>>(&mut self, documents: &mut impl Iterator<Item = D>, width: usize) -> bool {
        let end = self.ids.len() + width;
        while self.ids.len() < end {
            let Some(document) = documents.next() else { return false };
            let Document { ids, logprobs, topic } = document.borrow();
            let taken = ids.len().min(end - self.ids.len());
            if let Some(logprobs) = logprobs {
                assert_eq!(logprobs.len(), ids.len(), "a document needs one log-probability per id");
                self.logprobs.extend_from_slice(&logprobs[..taken]);
            }
            self.topics.extend(topic.iter().flat_map(|topic| iter::repeat_n(*topic, taken)));
            self.ids.extend_from_slice(&ids[..taken]);
            self.num_dropped += ids.len() - taken;
            assert!(self.logprobs.is_empty() || self.logprobs.len() == self.ids.len(), "documents without logprobs");
            assert!(self.topics.is_empty() || self.topics.len() == self.ids.len(), "documents without a topic");
        }
        true
    }
}

/// Drops the first entry of each window, whose token is not a target; `None` without entries.
fn of_targets<T: Copy>(entries: Vec<T>, seq_length: usize) -> Option<Vec<T>> {
    (!entries.is_empty()).then(|| entries.chunks_exact(seq_length + 1).flat_map(|row| &row[1..]).copied().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(ids: &[u32]) -> Document {
        Document { ids: ids.to_vec(), logprobs: None, topic: None }
    }

    /// Documents of ids that tell document and place, with a log-probability of 0 for the first id of each.
    fn drawn() -> impl Strategy<Value = Vec<Document>> {
        let logprobs = prop::collection::vec(-9.0..0.0, 0..12);
        prop::collection::vec((logprobs, 0_usize..5), 1..20).prop_map(|drawn| {
            let numbered = drawn.into_iter().enumerate();
            numbered
                .map(|(index, (mut logprobs, topic))| {
                    logprobs.iter_mut().take(1).for_each(|first| *first = 0.0);
                    let ids = (0..logprobs.len()).map(|place| (index * 100 + place) as u32).collect();
                    Document { ids, logprobs: Some(logprobs), topic: Some(topic) }
                })
                .collect()
        })
    }

    fn all_targets(windows: &Windows) -> Vec<u32> {
        (0..windows.len()).flat_map(|window| windows.targets(window).to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn contiguous_windows_score_each_token_but_the_first_once(
            documents in drawn(), seq_length in 1_usize..9,
        ) {
            let stream = documents.iter().map(|document| document.ids.as_slice()).collect::<Vec<_>>().concat();
            match Windows::contiguous(&documents, seq_length) {
                Ok(windows) => {
                    let targets = all_targets(&windows);
                    prop_assert_eq!(&targets, &stream[1..=targets.len()]);
                    prop_assert_eq!(1 + targets.len() + windows.num_dropped(), stream.len());
                    prop_assert!(windows.num_dropped() < seq_length);
                    prop_assert_eq!(windows.floor_nats(), None);
                }
                Err(DataError::TooFewTokens { found, expected }) => {
                    prop_assert_eq!((found, expected), (stream.len(), seq_length + 1));
                    prop_assert!(found < expected);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
        }

        #[test]
        fn inputs_shifted_by_one_are_targets(documents in drawn(), seq_length in 1_usize..9) {
            let aligned = Windows::aligned(&documents, seq_length, 1);
            let contiguous = Windows::contiguous(&documents, seq_length);
            for windows in [aligned, contiguous].into_iter().flatten() {
                for window in 0..windows.len() {
                    prop_assert_eq!(windows.inputs(window).len(), seq_length);
                    prop_assert_eq!(&windows.inputs(window)[1..], &windows.targets(window)[..seq_length - 1]);
                }
            }
        }

        #[test]
        fn aligned_windows_start_at_documents_and_keep_their_logprobs(
            documents in drawn(), seq_length in 1_usize..9, num_windows in 1_usize..4,
        ) {
            let Ok(windows) = Windows::aligned(&documents, seq_length, num_windows) else { return Ok(()) };
            prop_assert_eq!(windows.len(), num_windows);
            let mut sum_nats = 0.0;
            for window in 0..num_windows {
                prop_assert_eq!(windows.inputs(window)[0] % 100, 0);
                for (position, (input, target)) in iter::zip(windows.inputs(window), windows.targets(window)).enumerate() {
                    let (index, place) = (*target as usize / 100, *target as usize % 100);
                    prop_assert!(place == 0 || target - input == 1, "{} after {}", target, input);
                    prop_assert_eq!(windows.topic(window, position), documents[index].topic);
                    sum_nats -= documents[index].logprobs.as_ref().unwrap()[place];
                }
            }
            let floor_nats = sum_nats / (num_windows * seq_length) as f64;
            prop_assert!((windows.floor_nats().unwrap() - floor_nats).abs() <= 1e-12 * floor_nats.max(1.0));
        }

        #[test]
        fn aligned_windows_and_dropped_tokens_make_complete_documents(
            documents in drawn(), seq_length in 1_usize..9, num_windows in 1_usize..4,
        ) {
            let Ok(windows) = Windows::aligned(&documents, seq_length, num_windows) else { return Ok(()) };
            let taken = num_windows * (seq_length + 1) + windows.num_dropped();
            let mut sum = 0;
            let ends: Vec<usize> = documents.iter().map(|document| { sum += document.ids.len(); sum }).collect();
            prop_assert!(ends.contains(&taken), "{} of {:?}", taken, ends);
        }

        #[test]
        fn a_heldout_split_keeps_every_window_in_one_part(
            documents in drawn(), seq_length in 1_usize..5, num_windows in 2_usize..6, fraction in 0.01..0.99,
        ) {
            let Ok(whole) = Windows::aligned(&documents, seq_length, num_windows) else { return Ok(()) };
            let (train, heldout) = whole.clone().split_heldout(fraction).unwrap();
            prop_assert!((heldout.len() as f64 - fraction * num_windows as f64).abs() <= 1.0);
            prop_assert_eq!(train.len() + heldout.len(), num_windows);
            prop_assert_eq!([all_targets(&train), all_targets(&heldout)].concat(), all_targets(&whole));
            let first = train.len();
            prop_assert_eq!(heldout.topic(0, 0), whole.topic(first, 0));
            let parts = [&train, &heldout].map(|part| part.floor_nats().unwrap() * part.len() as f64);
            let sum_nats = whole.floor_nats().unwrap() * num_windows as f64;
            prop_assert!((parts[0] + parts[1] - sum_nats).abs() <= 1e-12 * sum_nats.max(1.0));
        }
    }

    #[test]
    fn contiguous_windows_share_one_token_with_the_next() {
        let windows = Windows::contiguous(&[plain(&[1, 2, 3, 9]), plain(&[4, 9])], 2).unwrap();
        assert_eq!((windows.inputs(0), windows.targets(0)), ([1, 2].as_slice(), [2, 3].as_slice()));
        assert_eq!((windows.inputs(1), windows.targets(1)), ([3, 9].as_slice(), [9, 4].as_slice()));
        assert_eq!((windows.len(), windows.num_dropped()), (2, 1));
        assert_eq!(windows.topic(0, 0), None);
    }

    #[test]
    fn aligned_windows_drop_the_rest_of_a_document_that_is_cut() {
        let documents = [plain(&[1, 2]), plain(&[3, 4, 5]), plain(&[6, 7, 8])];
        let windows = Windows::aligned(&documents, 2, 2).unwrap();
        assert_eq!((windows.inputs(0), windows.targets(0)), ([1, 2].as_slice(), [2, 3].as_slice()));
        assert_eq!((windows.inputs(1), windows.targets(1)), ([6, 7].as_slice(), [7, 8].as_slice()));
        assert_eq!((windows.num_dropped(), windows.floor_nats()), (2, None));
    }

    #[test]
    fn too_little_text_is_refused() {
        let error = Windows::contiguous(&[plain(&[1, 2])], 2).unwrap_err();
        assert!(matches!(error, DataError::TooFewTokens { found: 2, expected: 3 }));
        let error = Windows::aligned([plain(&[1, 2, 3]), plain(&[4])], 2, 2).unwrap_err();
        assert!(matches!(error, DataError::TooFewWindows { found: 1, expected: 2, seq_length: 2 }));
        let error = Windows::contiguous(&[plain(&[1, 2, 3])], 2).unwrap().split_heldout(0.5).unwrap_err();
        assert!(matches!(error, DataError::TooFewWindows { found: 1, expected: 2, seq_length: 2 }));
    }

    #[test]
    #[should_panic(expected = "documents without logprobs")]
    fn either_all_documents_have_logprobs_or_none() {
        let known = Document { ids: vec![1], logprobs: Some(vec![0.0]), topic: None };
        let _ = Windows::aligned([known, plain(&[2])], 1, 1);
    }
}
