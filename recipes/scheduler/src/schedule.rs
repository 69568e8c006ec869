//! When a job is due: `every 15m`, or five fields as in cron, in UTC.

/// Milliseconds.
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How many days are looked at for the next due time: the 29th of February comes within eight years.
const MAX_DAYS: u64 = 366 * 8 + 2;

/// When a job is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Again after so many milliseconds.
    Every(u64),
    /// At the minutes that fit.
    Cron(Box<Cron>),
}

/// The values that fit, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both the day of the month and that of the week are limited: then either is enough.
    either_day: bool,
}

impl Schedule {
    /// Reads `every <number><s|m|h|d>`, or `minute hour day month weekday`.
    pub(crate) fn parse(text: &str) -> Result<Schedule, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["every", interval] => interval_ms(interval).map(Schedule::Every),
            [minute, hour, day, month, weekday] => {
                let weekdays = field(weekday, "weekday", 0, 7)?;
                let cron = Cron {
                    minutes: field(minute, "minute", 0, 59)?,
                    hours: field(hour, "hour", 0, 23)?,
                    days: field(day, "day", 1, 31)?,
                    months: field(month, "month", 1, 12)?,
                    // 7 is Sunday too.
                    weekdays: weekdays | (weekdays >> 7),
                    either_day: !day.starts_with('*') && !weekday.starts_with('*'),
                };
                let schedule = Schedule::Cron(Box::new(cron));
                match schedule.next(0, 0) {
                    Some(_) => Ok(schedule),
                    None => Err(format!("{text:?} is never due")),
                }
            }
            _ => Err(format!(
                "{text:?} is neither like \"every 15m\" nor like \"0 9 * * 1-5\": minute, hour, day, month, weekday"
            )),
        }
    }

    /// The first due time after `now`, of a job that was due at `last`; in milliseconds since the Unix epoch.
    pub(crate) fn next(&self, last: u64, now: u64) -> Option<u64> {
        match self {
            Schedule::Every(interval) => {
                let passed = now.saturating_sub(last) / interval;
                last.checked_add((passed + 1).checked_mul(*interval)?)
            }
            Schedule::Cron(cron) => cron.next(now.max(last)),
        }
    }
}

impl Cron {
    fn next(&self, after: u64) -> Option<u64> {
        let from = (after / MINUTE + 1) * MINUTE;
        let first_day = from / DAY;
        (first_day..first_day + MAX_DAYS).find_map(|day| {
            if !self.fits_day(day) {
                return None;
            }
            let earliest = if day == first_day { from % DAY } else { 0 };
            let mut minutes = earliest / MINUTE..24 * 60;
            let fits =
                |minute: &u64| has(self.hours, minute / 60) && has(self.minutes, minute % 60);
            minutes.find(fits).map(|minute| day * DAY + minute * MINUTE)
        })
    }

    fn fits_day(&self, day: u64) -> bool {
        let (month, day_of_month) = date(day);
        // The epoch began on a Thursday.
        let of_week = has(self.weekdays, (day + 4) % 7);
        let of_month = has(self.days, day_of_month);
        let fits = if self.either_day {
            of_week || of_month
        } else {
            of_week && of_month
        };
        fits && has(self.months, month)
    }
}

fn has(bits: u64, value: u64) -> bool {
    bits >> value & 1 == 1
}

/// Month and day of the month of a day since the epoch, in the Gregorian calendar.
fn date(day: u64) -> (u64, u64) {
    // Years are counted from the first of March of the year 0, so that the leap day is the last of its year.
    let day = day + 719_468;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day_of_month)
}

fn interval_ms(text: &str) -> Result<u64, String> {
    let fail = || format!("{text:?} is no interval: a number and s, m, h or d, at least 1s");
    let unit = match text.chars().last() {
        Some('s') => 1000,
        Some('m') => MINUTE,
        Some('h') => HOUR,
        Some('d') => DAY,
        _ => return Err(fail()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| fail())?;
    if number == 0 {
        return Err(fail());
    }
    Ok(u64::from(number) * unit)
}

/// The values that a field lists: `*`, `5`, `1-5`, `*/15`, `10-20/5`, and several with commas.
fn field(text: &str, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let fail =
        || format!("the {name} {text:?} is none: {least} to {most}, as in 5, 1-5, */15 or 1,3");
    let number = |text: &str| {
        let number: u64 = text.parse().map_err(|_| fail())?;
        if (least..=most).contains(&number) {
            Ok(number)
        } else {
            Err(fail())
        }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().map_err(|_| fail())?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None if range == "*" => (least, most),
            None => (number(range)?, number(range)?),
        };
        if step == 0 || first > last {
            return Err(fail());
        }
        for value in (first..=last).step_by(step) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01, a Thursday, in days.
    const NEW_YEAR: u64 = 20_454;

    #[track_caller]
    fn next(schedule: &str, day: u64, hour: u64, minute: u64) -> (u64, u64, u64) {
        let now = day * DAY + hour * HOUR + minute * MINUTE;
        let next = Schedule::parse(schedule).unwrap().next(0, now).unwrap();
        (next / DAY, next % DAY / HOUR, next % HOUR / MINUTE)
    }

    #[test]
    fn cron() {
        let day = NEW_YEAR;
        assert_eq!(next("0 9 * * *", day, 8, 59), (day, 9, 0));
        // At the very moment: tomorrow.
        assert_eq!(next("0 9 * * *", day, 9, 0), (day + 1, 9, 0));
        assert_eq!(next("*/15 9-17 * * 1-5", day, 17, 50), (day + 1, 9, 0));
        assert_eq!(next("30 0,12 * * 0", day, 0, 0), (day + 3, 0, 30));
        assert_eq!(next("30 0,12 * * 7", day + 3, 1, 0), (day + 3, 12, 30));
        assert_eq!(
            next("0 0 29 2 *", day, 0, 0),
            (20_454 + 365 * 2 + 31 + 28, 0, 0)
        );
        // The 13th, or a Friday.
        assert_eq!(next("0 0 13 * 5", day, 0, 0), (day + 1, 0, 0));
        assert_eq!(next("0 0 13 * 5", day + 9, 0, 0), (day + 12, 0, 0));
        assert_eq!(next("0 0 1 1 *", day, 0, 0), (day + 365, 0, 0));
    }

    #[test]
    fn intervals() {
        let every = Schedule::parse("every 15m").unwrap();
        let quarter = 15 * MINUTE;
        assert_eq!(every.next(1000, 1000), Some(1000 + quarter));
        assert_eq!(every.next(1000, 1000 + quarter), Some(1000 + 2 * quarter));
        // What was missed is missed.
        assert_eq!(every.next(1000, 5 * quarter), Some(1000 + 5 * quarter));
        assert_eq!(every.next(5 * quarter, 1000), Some(6 * quarter));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "9",
            "every",
            "every 0s",
            "every 5",
            "every ä",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "0 0 30 2 *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
