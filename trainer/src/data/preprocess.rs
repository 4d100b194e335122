//! Empty room: preprocess.
