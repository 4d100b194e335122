//! Empty room: params.
