//! Retry limits and backoff.

use cnclip_crds::common::{RestartCounts, RetryLimits};

use super::class::{FailureClass, RetryBudget};

/// Why a failure is not retried; `None` if it is. `restarts` are those before it.
pub fn retries_exhausted(
    class: FailureClass,
    restarts: &RestartCounts,
    retries: &RetryLimits,
) -> Option<String> {
    let (used, allowed, field) = match class.retry_budget() {
        RetryBudget::Never => {
            return Some("the next attempt would fail in the same way".to_owned());
        }
        RetryBudget::Application => (restarts.application, retries.application, "application"),
        RetryBudget::Infrastructure => (
            restarts.infrastructure,
            retries.infrastructure,
            "infrastructure",
        ),
    };

    (used >= allowed).then(|| format!("all {allowed} restarts of spec.retries.{field} are used up"))
}

/// Counts a restart.
pub fn count_restart(restarts: &mut RestartCounts, class: FailureClass) {
    restarts.total += 1;
    match class.retry_budget() {
        RetryBudget::Never => {}
        RetryBudget::Application => restarts.application += 1,
        RetryBudget::Infrastructure => restarts.infrastructure += 1,
    }

    *restarts
        .by_class
        .entry(class.name().to_owned())
        .or_default() += 1;
}

/// Resets the counters that the retry limits apply to: each checkpoint of a series has its own budget.
pub fn reset_retry_budget(restarts: &mut RestartCounts) {
    restarts.application = 0;
    restarts.infrastructure = 0;
}

/// Exponential backoff before the last counted restart, in seconds: 2, 4, 8 … 300.
///
/// # Examples
/// ```
/// use cnclip_crds::common::RestartCounts;
/// use cnclip_operator::plan::failure::{FailureClass, backoff_seconds, count_restart};
///
/// let mut restarts = RestartCounts::default();
/// count_restart(&mut restarts, FailureClass::NodeLost);
/// count_restart(&mut restarts, FailureClass::OutOfMemory);
/// assert_eq!((restarts.infrastructure, restarts.application), (1, 1));
/// assert_eq!(backoff_seconds(&restarts), 4);
/// ```
pub fn backoff_seconds(restarts: &RestartCounts) -> i64 {
    // Of both budgets, so that alternating failures back off too. A series resets them per checkpoint.
    let counted = restarts.application + restarts.infrastructure;
    // Clamped before the power: the counts may reach 2000, and 2^9 already exceeds the maximum.
    2_i64.pow(counted.clamp(1, 9).unsigned_abs()).min(300)
}
