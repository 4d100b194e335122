//! Empty room: store.
