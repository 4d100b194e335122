//! Empty room: retrieval.
