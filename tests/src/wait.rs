//! Waits for what the cluster should come to, with a limit. Never sleeps for a fixed time and hopes.

use std::{fmt::Debug, future::Future, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// How often is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Asks until `wanted` says yes, and returns the answer it said yes to.
///
/// # Errors
/// When asking fails, or the limit passes; then the error holds the last answer.
pub async fn wait_until<T: Debug, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask().await?;
        if wanted(&answer) {
            return Ok(answer);
        }

        if Instant::now() > deadline {
            bail!("waited {limit:?} for {what}; the last answer was {answer:#?}");
        }

        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_answer_that_is_wanted_is_returned() {
        let mut answers = 0..;
        let got = wait_until(
            "three",
            Duration::MAX / 4,
            || std::future::ready(Ok(answers.next())),
            |n| *n == Some(3),
        );

        assert_eq!(got.await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn when_the_time_is_up_the_last_answer_is_told() {
        let got = wait_until(
            "a two",
            Duration::ZERO,
            || std::future::ready(Ok(1)),
            |n| *n == 2,
        )
        .await;

        assert_eq!(
            got.unwrap_err().to_string(),
            "waited 0ns for a two; the last answer was 1"
        );
    }
}
