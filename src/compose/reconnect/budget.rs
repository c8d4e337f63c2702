//! How many calls may be repeated: a share of those that are made.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::rpc::{clock::now, waiters::lock};

/// How many calls may be repeated, so that a server in trouble does not get a multiple of its load.
///
/// A bucket of tokens: a repetition takes one, each new call pays in a fraction of one, and time brings some, for
/// those who call seldom. Whoever finds none is told that the outcome is unknown. The defaults are those of
/// [Finagle](https://twitter.github.io/finagle/guide/Clients.html#retries) and Linkerd: a fifth of the calls, and
/// ten a second.
///
/// Only what may have run counts: a request that was never sent costs nothing.
///
/// ```
/// use adjoin::reconnect::RetryBudget;
///
/// let no_repetitions = RetryBudget::default().ratio(0.0).per_second(0).capacity(0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct RetryBudget {
    ratio: f64,
    per_second: u32,
    capacity: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { ratio: 0.2, per_second: 10, capacity: 100 }
    }
}

impl RetryBudget {
    /// What each new call pays in, in tokens. Default: 0.2. What is negative, or no number, counts as 0.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio.max(0.0); // that is 0 for what is no number
        self
    }

    /// The tokens that come with each second. Default: 10.
    pub fn per_second(mut self, tokens: u32) -> Self {
        self.per_second = tokens;
        self
    }

    /// The most tokens that there are, and those that there are at first. Default: 100.
    pub fn capacity(mut self, tokens: u32) -> Self {
        self.capacity = tokens;
        self
    }
}

/// The tokens of a client. Counted in thousandths, and never more than the capacity.
pub(super) struct Tokens {
    budget: RetryBudget,
    purse: Mutex<Purse>,
}

struct Purse {
    thousandths: u64,
    /// Up to when the tokens that come with time are counted.
    counted: Instant,
}

const TOKEN: u64 = 1000;

impl Tokens {
    pub(super) fn new(budget: RetryBudget) -> Self {
        let thousandths = u64::from(budget.capacity) * TOKEN;
        Tokens { budget, purse: Mutex::new(Purse { thousandths, counted: now() }) }
    }

    /// A new call is made.
    pub(super) fn pay_in(&self) {
        // A float beyond the integer's range becomes its maximum.
        self.add(&mut lock(&self.purse), (self.budget.ratio * TOKEN as f64) as u64);
    }

    /// A call is to be repeated. `false`: there is no token left.
    pub(super) fn take(&self) -> bool {
        let mut purse = lock(&self.purse);
        let now = now();
        let millis = now.saturating_duration_since(purse.counted).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        // To the millisecond, so that none is lost by counting often; a token a second is a thousandth of one then.
        purse.counted = purse.counted.checked_add(Duration::from_millis(millis)).unwrap_or(now);
        self.add(&mut purse, millis.saturating_mul(u64::from(self.budget.per_second)));
        let left = purse.thousandths.checked_sub(TOKEN);
        purse.thousandths = left.unwrap_or(purse.thousandths);
        left.is_some()
    }

    fn add(&self, purse: &mut Purse, thousandths: u64) {
        let full = u64::from(self.budget.capacity) * TOKEN;
        purse.thousandths = purse.thousandths.saturating_add(thousandths).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(tokens: &Tokens) -> u32 {
        (0..u32::MAX).take_while(|_| tokens.take()).last().map_or(0, |last| last + 1)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_pay_in_a_fraction_each_and_no_more_than_fits() {
        let tokens = Tokens::new(RetryBudget::default().per_second(0).capacity(3));
        assert_eq!(taken(&tokens), 3);
        (0..9).for_each(|_| tokens.pay_in());
        assert_eq!(taken(&tokens), 1); // 1.8, and 0.8 stay
        tokens.pay_in();
        assert_eq!(taken(&tokens), 1);
        (0..1000).for_each(|_| tokens.pay_in());
        assert_eq!(taken(&tokens), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn time_brings_tokens_and_none_is_lost_by_asking_often() {
        let tokens = Tokens::new(RetryBudget::default().ratio(0.0).per_second(2).capacity(5));
        assert_eq!(taken(&tokens), 5);
        let mut found = 0;
        for _ in 0..4000 {
            tokio::time::advance(Duration::from_micros(250)).await;
            found += taken(&tokens);
        }
        assert_eq!(found, 2); // of one second
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&tokens), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_nothing_allows_nothing_and_one_without_bounds_does_not_overflow() {
        let none = Tokens::new(RetryBudget::default().ratio(f64::NAN).per_second(0).capacity(0));
        none.pay_in();
        assert!(!none.take());
        let all =
            Tokens::new(RetryBudget::default().ratio(f64::INFINITY).per_second(u32::MAX).capacity(u32::MAX));
        tokio::time::advance(Duration::from_secs(3600)).await;
        all.pay_in();
        assert!(all.take());
    }
}
