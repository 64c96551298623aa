//! Documents as token ids.

use super::error::DataError;

/// A document as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Token ids; the first is the beginning-of-document token if the source has one.
    pub ids: Vec<u32>,
    /// `ln p(id | ids before it)` of each id under the distribution that the document was drawn from; `None` for natural
    /// text, whose distribution is unknown.
    pub logprobs: Option<Vec<f64>>,
    /// Index into the source's list of topics, if it has one.
    pub topic: Option<usize>,
}

/// Refuses ids for which a model of `vocab_size` has no embedding.
///
/// # Errors
/// [`DataError::IdOutsideVocabulary`] for the first such id.
pub fn check_vocabulary(documents: &[Document], vocab_size: usize) -> Result<(), DataError> {
    for (document, ids) in documents.iter().map(|document| &document.ids).enumerate() {
        if let Some(position) = ids.iter().position(|id| *id as usize >= vocab_size) {
            return Err(DataError::IdOutsideVocabulary { document, position, id: ids[position], vocab_size });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn ids_above_the_vocabulary_of_a_model_are_found() {
        let document = |ids: &[u32]| Document { ids: ids.to_vec(), logprobs: None, topic: None };
        let documents = [document(&[0, 1]), document(&[2, 3, 4])];
        assert!(check_vocabulary(&documents, 5).is_ok());
        let error = check_vocabulary(&documents, 3).unwrap_err();
        assert!(matches!(error, DataError::IdOutsideVocabulary { document: 1, position: 1, id: 3, vocab_size: 3 }));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
