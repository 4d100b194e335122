//! Empty room: decode.
