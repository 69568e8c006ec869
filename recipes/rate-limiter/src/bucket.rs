//! A token bucket in whole numbers, so that nothing is lost to rounding however often it is looked at.

/// A token is this many parts: as many as there are milliseconds in the period in which `refill` come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// The most tokens that it holds.
    pub(crate) capacity: u64,
    /// The tokens that come in a period.
    pub(crate) refill: u64,
    /// The period in milliseconds.
    pub(crate) period_ms: u64,
    /// What it has, in parts of a token.
    pub(crate) parts: u64,
    /// When it had that.
    pub(crate) at: u64,
}

impl Bucket {
    /// As it is at `now`.
    pub(crate) fn at(self, now: u64) -> Bucket {
        let came = now.saturating_sub(self.at).saturating_mul(self.refill);
        let full = self.capacity * self.period_ms;
        Bucket {
            parts: self.parts.saturating_add(came).min(full),
            at: now.max(self.at),
            ..self
        }
    }

    /// Without so many tokens; or how many milliseconds it is until it has them.
    pub(crate) fn take(self, tokens: u64) -> Result<Bucket, u64> {
        let parts = tokens * self.period_ms;
        match self.parts.checked_sub(parts) {
            Some(left) => Ok(Bucket {
                parts: left,
                ..self
            }),
            None => Err((parts - self.parts).div_ceil(self.refill)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_no_more_than_came() {
        let bucket = Bucket {
            capacity: 3,
            refill: 2,
            period_ms: 1000,
            parts: 3000,
            at: 0,
        };
        let empty = bucket.at(5).take(3).unwrap();
        assert_eq!(empty.at(5).take(1), Err(500));
        // Looking at it often loses nothing.
        let looked = (6..=505).fold(empty, |bucket, now| bucket.at(now));
        assert_eq!(looked.take(1).map(|bucket| bucket.parts), Ok(0));
        // No time takes it beyond its capacity, and time does not go back.
        assert_eq!(looked.at(u64::MAX).parts, 3000);
        assert_eq!(looked.at(1), looked);
    }
}
