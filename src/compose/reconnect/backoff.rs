//! How long is waited between attempts to connect.

use std::time::Duration;

/// How long is waited before an attempt to connect: a time that grows with each one that fails, cut down at random.
///
/// The first attempt after a connection was lost is made at once. After that, before the attempt that follows the
/// n-th failure, the time is between zero and `initial * factor^(n - 1)`, or `max` if that is less, with all values
/// equally likely ("full jitter", as described in Marc Brooker's "Exponential Backoff and Jitter"): clients that have
/// lost the same server do not come back in step.
///
/// ```
/// use adjoin::reconnect::Backoff;
/// use std::time::Duration;
///
/// let patient = Backoff::default().initial(Duration::from_millis(100)).max(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Backoff {
    initial: Duration,
    factor: f64,
    max: Duration,
    jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        let (initial, max) = (Duration::from_millis(10), Duration::from_secs(5));
        Backoff { initial, factor: 2.0, max, jitter: true }
    }
}

impl Backoff {
    /// The longest time after the first failure. Default: 10 ms.
    pub fn initial(mut self, initial: Duration) -> Self {
        self.initial = initial;
        self
    }

    /// What it grows by with each failure. Default: 2. What is less than 1, or no number, counts as 1.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor.max(1.0); // that is 1 for what is no number
        self
    }

    /// The longest time, however many attempts have failed. Default: 5 s. More than a day counts as a day.
    pub fn max(mut self, max: Duration) -> Self {
        self.max = max.min(DAY); // no clock overflows
        self
    }

    /// Whether the time is cut down at random. Default: yes. Without it clients come back in step.
    pub fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// The longest time that is ever waited.
    pub(super) fn longest(&self) -> Duration {
        self.max
    }

    /// The time to wait after so many failures in a row.
    pub(super) fn delay(&self, failures: u32) -> Duration {
        // A system without a random source has no jitter.
        let random = if self.jitter { getrandom::u64().unwrap_or(u64::MAX) } else { u64::MAX };
        self.ceiling(failures).mul_f64(random as f64 / u64::MAX as f64)
    }

    fn ceiling(&self, failures: u32) -> Duration {
        let Some(steps) = failures.checked_sub(1) else { return Duration::ZERO };
        let grown = self.factor.powi(i32::try_from(steps).unwrap_or(i32::MAX)) * self.initial.as_secs_f64();
        Duration::try_from_secs_f64(grown).map_or(self.max, |grown| grown.min(self.max))
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn without_jitter_the_time_doubles_up_to_its_maximum_and_stays_there() {
        let backoff = Backoff::default().max(ms(70)).jitter(false);
        let delays: Vec<_> = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failures| backoff.delay(failures)).into();
        assert_eq!(delays, [ms(0), ms(10), ms(20), ms(40), ms(70), ms(70), ms(70)]);
    }

    #[test]
    fn with_jitter_the_time_is_anywhere_between_zero_and_the_ceiling() {
        let backoff = Backoff::default().initial(ms(1000)).max(ms(1000));
        let delays: Vec<_> = (0..1000).map(|_| backoff.delay(1)).collect();
        assert!(delays.iter().all(|delay| *delay <= ms(1000)));
        // Each quarter has a quarter of them; that one has none comes about once in 10^125 runs.
        for quarter in 0..4 {
            let within = ms(quarter * 250)..=ms((quarter + 1) * 250);
            assert!(delays.iter().any(|delay| within.contains(delay)), "quarter {quarter}");
        }
    }

    #[test]
    fn a_factor_that_makes_no_sense_leaves_the_time_as_it_is() {
        for factor in [0.5, -3.0, f64::NAN, f64::NEG_INFINITY] {
            let backoff = Backoff::default().factor(factor).jitter(false);
            assert_eq!(backoff.delay(9), ms(10), "{factor}");
        }
        let backoff = Backoff::default().factor(f64::INFINITY).jitter(false);
        assert_eq!(backoff.delay(9), Duration::from_secs(5));
        let longest = Backoff::default().initial(Duration::MAX).max(Duration::MAX);
        assert_eq!(longest.jitter(false).delay(9), DAY);
        assert!(longest.delay(9) <= DAY);
        let none = Backoff::default().initial(ms(0)).factor(f64::INFINITY).jitter(false);
        assert!(none.delay(9) <= Duration::from_secs(5)); // zero times infinity is no number
    }
}
