//! Empty room: shard.
