//! Empty room: loader.
