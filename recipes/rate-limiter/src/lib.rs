//! Token buckets by name. A bucket is a persistent znode with its settings and what it had when it was last
//! looked at; who waits for tokens stands in a line, of which only the first watches the clock.

use quorate_recipe::prelude::*;

mod bucket;

use bucket::Bucket;

recipe!(
    r#"
    package quorate:rate-limiter@0.1.0;

    /// Token buckets by name: no more tokens are given than the bucket holds and what comes into it. First
    /// come first served. What was taken is gone, whatever becomes of who took it.
    interface rate-limiter {
        /// What came of asking for tokens.
        variant decision {
            /// They were taken.
            taken,
            /// There are not enough, or others wait: it may help to ask again after so many milliseconds.
            retry-after(u64),
        }

        /// A bucket as it is.
        record level {
            /// How many whole tokens it has.
            tokens: u64,
            /// The most that it holds.
            capacity: u64,
            /// How many come in a period.
            refill: u64,
            /// The period, in milliseconds.
            period-ms: u64,
        }

        /// Makes a bucket, full, or changes one, which keeps what it has if that fits. It holds up to
        /// `capacity` tokens, and `refill` of them come, evenly, in `period-ms`. All are at least 1 and
        /// at most a billion.
        configure: func(name: string, capacity: u64, refill: u64, period-ms: u64);

        /// Takes tokens if there are enough and nobody waits. Refused if there is no such bucket, or more
        /// are asked for than it ever holds.
        try-take: func(name: string, tokens: u64) -> decision;

        /// Waits its turn until there are enough, then takes them. Refused likewise.
        take: func(name: string, tokens: u64);

        /// The bucket as it is; none if there is no such bucket.
        peek: func(name: string) -> option<level>;

        /// Removes a bucket; says whether there was one. Refused while calls wait for it.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export rate-limiter;
    }
"#
);

/// Bound of each setting, so that their products fit 64 bits.
const MAX_SETTING: u64 = 1_000_000_000;

fn configure(name: String, capacity: u64, refill: u64, period_ms: u64) {
    require_name(&name);
    for setting in [capacity, refill, period_ms] {
        if setting == 0 || setting > MAX_SETTING {
            refuse!("a setting is 1 to {MAX_SETTING}, not {setting}");
        }
    }
    // Whole tokens are kept: what a part is worth changes with the period.
    let kept = read(&name).map_or(capacity, |bucket| bucket.parts / bucket.period_ms);
    let bucket = Bucket {
        capacity,
        refill,
        period_ms,
        parts: kept.min(capacity) * period_ms,
        at: call::now(),
    };
    put(&name, bucket);
}

fn try_take(name: String, tokens: u64) -> Decision {
    let bucket = bucket_with(&name, tokens);
    if tree::first(&path!(name, "line")).is_some() {
        // When the first of them is served at the latest, if it wants all.
        let wait = bucket.take(bucket.capacity).err().unwrap_or(1);
        return Decision::RetryAfter(wait);
    }
    match bucket.take(tokens) {
        Ok(left) => {
            put(&name, left);
            Decision::Taken
        }
        Err(wait) => Decision::RetryAfter(wait),
    }
}

fn take(name: String, tokens: u64) {
    let bucket = bucket_with(&name, tokens);
    let line = path!(name, "line");
    if call::memo_bytes().is_none()
        && tree::first(&line).is_none()
        && let Ok(left) = bucket.take(tokens)
    {
        return put(&name, left);
    }
    let place = line::stand_in(&line, "");
    match bucket.take(tokens) {
        Ok(left) => {
            put(&name, left);
            tree::delete(&place.path);
        }
        Err(wait) => {
            watch::time(call::now() + wait);
            // It may be given other settings.
            park!(place.ticket; name);
        }
    }
}

fn peek(name: String) -> Option<Level> {
    require_name(&name);
    let bucket = read(&name)?;
    Some(Level {
        tokens: bucket.parts / bucket.period_ms,
        capacity: bucket.capacity,
        refill: bucket.refill,
        period_ms: bucket.period_ms,
    })
}

fn remove(name: String) -> bool {
    require_name(&name);
    match tree::try_delete(&name) {
        Ok(()) => true,
        Err(Error::NoNode) => false,
        Err(_) => refuse!("calls wait for tokens of {name:?}"),
    }
}

/// The bucket now, which can hold so many tokens.
fn bucket_with(name: &str, tokens: u64) -> Bucket {
    require_name(name);
    let Some(bucket) = read(name) else {
        refuse!("there is no bucket {name:?}: configure makes one");
    };
    if tokens == 0 || tokens > bucket.capacity {
        let most = bucket.capacity;
        refuse!("{tokens} tokens are asked for, and {name:?} has 1 to {most} to give");
    }
    bucket
}

/// As it is now.
fn read(name: &str) -> Option<Bucket> {
    let node = tree::get(name)?;
    let numbers: Vec<u64> = node
        .text()
        .split(' ')
        .map(|number| number.parse().expect("it was written by this recipe"))
        .collect();
    let [capacity, refill, period_ms, parts, at] = numbers[..] else {
        panic!("a bucket is five numbers");
    };
    let bucket = Bucket {
        capacity,
        refill,
        period_ms,
        parts,
        at,
    };
    Some(bucket.at(call::now()))
}

fn put(name: &str, bucket: Bucket) {
    let Bucket {
        capacity,
        refill,
        period_ms,
        parts,
        at,
    } = bucket;
    tree::put(
        name,
        format!("{capacity} {refill} {period_ms} {parts} {at}"),
    );
}
