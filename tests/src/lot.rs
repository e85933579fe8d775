//! Numbers by lot, for tests that want to be surprised and say by what.

use host_demo::clock::{Clock as _, SystemClock};

/// The same numbers for the same seed (`xorshift64`).
#[derive(Clone, Debug)]
pub struct Lot(u64);

impl Lot {
    /// With a seed that nobody knows.
    pub fn drawn() -> Self {
        Self(SystemClock::new().now().as_nanos() | 1)
    }

    /// With this seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number, of those below this one.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("it is below one that fits")
    }
}
