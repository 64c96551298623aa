//! The prompt of Alpaca, as its authors published it.

/// The text before the answer. An answer follows without a line break, as in the published training code.
pub(super) fn prompt(instruction: &str, input: &str) -> String {
    const REQUEST: &str = "Write a response that appropriately completes the request.";
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. {REQUEST}\n\n### Instruction:\n{instruction}\n\n### Response:"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. {REQUEST}\n\n\
         ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
}
