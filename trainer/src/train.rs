//! Empty room: train.
