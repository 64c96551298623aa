//! Attention on the CPU: flash-decoding for a sequence of one query, FlashAttention for one of more.

mod backward;
mod cached;
mod decode;
mod flash;
mod forward;
mod layout;
