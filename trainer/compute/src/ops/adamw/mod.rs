//! AdamW over a table of chunks, of which none holds numbers of two segments.

pub mod gpu;
