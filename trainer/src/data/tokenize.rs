//! Empty room: tokenize.
