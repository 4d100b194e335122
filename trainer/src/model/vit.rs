//! Empty room: vit.
