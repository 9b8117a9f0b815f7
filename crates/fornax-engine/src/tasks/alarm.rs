//! Asks the scheduler when time alone changes something: a deadline passes, or a task that waits overtakes another.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::shared::Shared;

/// Sleeps until there is something to ask, or the bell says that it is earlier; ends with the runner.
pub(super) async fn alarm(shared: Weak<Shared>, bell: Arc<Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let Some(next) = strong.wake() else { return };
        let next = strong.instant(next);
        drop(strong);
        match next {
            // Whether it was the bell or the time, the scheduler knows.
            Some(next) => drop(tokio::time::timeout_at(next, bell.notified()).await),
            None => bell.notified().await,
        }
    }
}
