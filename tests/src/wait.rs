//! Waits by polling, with a time limit, instead of sleeping for a fixed time.

use std::{fmt::Debug, future::Future, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// The time between two reads.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Reads a value until it satisfies `predicate`, and returns it.
///
/// # Errors
/// When a read fails, or the time limit passes; the message then contains the last value.
pub async fn wait_until<T: Debug, F: Future<Output = anyhow::Result<T>>>(
    description: &str,
    limit: Duration,
    mut read: impl FnMut() -> F,
    predicate: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let value = read().await?;
        if predicate(&value) {
            return Ok(value);
        }

        if Instant::now() > deadline {
            bail!("waited {limit:?} for {description}; the last value was {value:#?}");
        }

        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_value_that_satisfies_the_predicate_is_returned() {
        let mut values = 0..;
        let result = wait_until(
            "three",
            Duration::MAX / 4,
            || std::future::ready(Ok(values.next())),
            |n| *n == Some(3),
        );

        assert_eq!(result.await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn the_last_value_is_in_the_message_after_the_time_limit() {
        let result = wait_until(
            "a two",
            Duration::ZERO,
            || std::future::ready(Ok(1)),
            |n| *n == 2,
        )
        .await;

        assert_eq!(
            result.unwrap_err().to_string(),
            "waited 0ns for a two; the last value was 1"
        );
    }
}
