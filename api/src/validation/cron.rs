//! The schedule of a CronJob: five fields, or a shorthand such as `@daily`.
//!
//! Besides checking, this is where a schedule is computed: [`Schedule::next`]
//! is what the CronJob controller asks.

use jiff::Zoned;
use jiff::civil::{Date, DateTime, Time};

/// A parsed schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Whenever minute, hour and day match.
    Calendar(Calendar),
    /// `@every 1h30m`: this many seconds after the last time.
    Every(i64),
}

/// Sets of minutes, hours, days, months and weekdays, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field for days, or for weekdays, was `*`: then the other
    /// alone decides, else either may match.
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Other than five fields.
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    Fields {
        /// How many there are.
        found: usize,
        /// The text.
        text: String,
    },
    /// A shorthand that is none.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// The period of `@every`.
    #[error("failed to parse duration {0}")]
    Duration(String),
    /// A number or name that is none.
    #[error("failed to parse int from {0}")]
    Number(String),
    /// A number below or above what its field has.
    #[error("{side} of range ({value}) {relation} {bound_name} ({bound}): {text}")]
    Bound {
        /// `beginning` or `end`.
        side: &'static str,
        /// The number.
        value: u32,
        /// `below` or `above`.
        relation: &'static str,
        /// `minimum` or `maximum`.
        bound_name: &'static str,
        /// The least or greatest number of the field.
        bound: u32,
        /// The expression.
        text: String,
    },
    /// `5-1`.
    #[error("beginning of range ({start}) beyond end of range ({end}): {text}")]
    Backwards {
        /// Where it starts.
        start: u32,
        /// Where it ends.
        end: u32,
        /// The expression.
        text: String,
    },
    /// `*/0`.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
    /// `1-2-3` or `1/2/3`.
    #[error("too many {what}: {text}")]
    TooMany {
        /// `hyphens` or `slashes`.
        what: &'static str,
        /// The expression.
        text: String,
    },
}

/// The numbers a field may hold, and the names some of them have.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Field = Field { min: 0, max: 59, names: &[] };
const HOURS: Field = Field { min: 0, max: 23, names: &[] };
const DAYS: Field = Field { min: 1, max: 31, names: &[] };
const MONTHS: Field = Field {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Field =
    Field { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule. A leading `TZ=…` is skipped: the API refuses it with
    /// a message of its own.
    pub fn parse(text: &str) -> Result<Schedule, ScheduleError> {
        let bare = match text.split_once(' ') {
            Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => {
                rest.trim()
            }
            _ => text,
        };
        if bare.starts_with('@') {
            return Self::descriptor(bare);
        }
        let fields: Vec<&str> = bare.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let text = fields.join(" ");
            return Err(ScheduleError::Fields { found: fields.len(), text });
        };
        Ok(Schedule::Calendar(Calendar {
            minutes: MINUTES.parse(minutes)?,
            hours: HOURS.parse(hours)?,
            days: DAYS.parse(days)?,
            months: MONTHS.parse(months)?,
            weekdays: WEEKDAYS.parse(weekdays)?,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
        }))
    }

    fn descriptor(text: &str) -> Result<Schedule, ScheduleError> {
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => {
                let Some(period) = text.strip_prefix("@every ") else {
                    return Err(ScheduleError::Descriptor(text.to_owned()));
                };
                let seconds = duration_seconds(period)
                    .ok_or_else(|| ScheduleError::Duration(text.to_owned()))?;
                return Ok(Schedule::Every(seconds.max(1)));
            }
        };
        Schedule::parse(fields)
    }

    /// The first time after `after` that the schedule names, in the time zone
    /// of `after`; `None` when there is none within five years (February 30).
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        match self {
            Schedule::Every(seconds) => {
                let next = after.checked_add(jiff::SignedDuration::from_secs(*seconds)).ok()?;
                next.round(jiff::Unit::Second).ok()
            }
            Schedule::Calendar(calendar) => calendar.next(after),
        }
    }
}

impl Calendar {
    fn next(&self, after: &Zoned) -> Option<Zoned> {
        // The search runs over wall-clock minutes and skips whole days; a
        // minute that a change of clocks leaves out moves to the one after it.
        let mut date = after.date();
        let last = date.year().checked_add(5)?;
        let mut earliest = Some(after.time());
        while date.year() <= last {
            if self.day_matches(date) {
                for minute in self.minutes_of_day() {
                    if earliest.is_some_and(|time| minute < time.round_down()) {
                        continue;
                    }
                    let wall = DateTime::from_parts(date, minute);
                    let zoned = wall.to_zoned(after.time_zone().clone()).ok()?;
                    if zoned > *after {
                        return Some(zoned);
                    }
                }
            }
            date = date.tomorrow().ok()?;
            earliest = None;
        }
        None
    }

    fn day_matches(&self, date: Date) -> bool {
        let has = |set: u64, value: i8| set & (1 << value) != 0;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && either
    }

    fn minutes_of_day(&self) -> impl Iterator<Item = Time> + '_ {
        let members = |set: u64, count: i8| (0..count).filter(move |bit| set & (1 << bit) != 0);
        members(self.hours, 24).flat_map(move |hour| {
            members(self.minutes, 60).map(move |minute| Time::constant(hour, minute, 0, 0))
        })
    }
}

/// The start of the minute a time is in.
trait RoundDown {
    fn round_down(self) -> Time;
}

impl RoundDown for Time {
    fn round_down(self) -> Time {
        Time::constant(self.hour(), self.minute(), 0, 0)
    }
}

fn is_any(field: &str) -> bool {
    field.split(',').any(|part| matches!(part, "*" | "?") || part == "*/1")
}

impl Field {
    /// Reads a list of ranges as a set of bits.
    fn parse(&self, text: &str) -> Result<u64, ScheduleError> {
        text.split(',').try_fold(0, |set, range| Ok(set | self.parse_range(range)?))
    }

    /// Reads `*`, `5`, `1-5`, each also with a step behind a slash.
    fn parse_range(&self, text: &str) -> Result<u64, ScheduleError> {
        let too_many = |what| ScheduleError::TooMany { what, text: text.to_owned() };
        let mut parts = text.split('/');
        let range = parts.next().unwrap_or_default();
        let step = parts.next();
        if parts.next().is_some() {
            return Err(too_many("slashes"));
        }
        let mut ends = range.split('-');
        let first = ends.next().unwrap_or_default();
        let second = ends.next();
        if ends.next().is_some() {
            return Err(too_many("hyphens"));
        }
        let (start, end) = match (first, second) {
            ("*" | "?", _) => (self.min, self.max),
            (_, Some(second)) => (self.number(first)?, self.number(second)?),
            // A start with a step runs to the end.
            (_, None) if step.is_some() => (self.number(first)?, self.max),
            (_, None) => {
                let only = self.number(first)?;
                (only, only)
            }
        };
        let step = match step {
            None => 1,
            Some(step) => integer(step)?,
        };
        let bound = |side, value, relation, bound_name, bound| ScheduleError::Bound {
            side,
            value,
            relation,
            bound_name,
            bound,
            text: text.to_owned(),
        };
        if start < self.min {
            return Err(bound("beginning", start, "below", "minimum", self.min));
        }
        if end > self.max {
            return Err(bound("end", end, "above", "maximum", self.max));
        }
        if start > end {
            return Err(ScheduleError::Backwards { start, end, text: text.to_owned() });
        }
        if step == 0 {
            return Err(ScheduleError::Step(text.to_owned()));
        }
        Ok((start..=end).step_by(step as usize).fold(0, |set, bit| set | 1 << bit))
    }

    fn number(&self, text: &str) -> Result<u32, ScheduleError> {
        let lower = text.to_ascii_lowercase();
        match self.names.iter().zip(self.min..).find(|(name, _)| **name == lower) {
            Some((_, number)) => Ok(number),
            None => integer(text),
        }
    }
}

fn integer(text: &str) -> Result<u32, ScheduleError> {
    text.parse().map_err(|_| ScheduleError::Number(text.to_owned()))
}

/// Reads a period such as `1h30m10s`.
fn duration_seconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit = tail
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = tail;
    }
    // An empty text is no period; the float is far below 2^63.
    (!text.is_empty() && total < 1e15).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_schedule() {
        let after = "2026-01-31T10:07:30[UTC]";
        let cases = [
            ("*/5 * * * *", "2026-01-31T10:10:00"),
            ("7 10 * * *", "2026-02-01T10:07:00"),
            ("0 0 * * *", "2026-02-01T00:00:00"),
            ("0 12 31 * *", "2026-01-31T12:00:00"),
            ("0 9 31 * *", "2026-03-31T09:00:00"),
            ("0 0 29 2 *", "2028-02-29T00:00:00"),
            ("0 0 * * mon", "2026-02-02T00:00:00"),
            // Both fields given: either day will do.
            ("0 0 15 * 1", "2026-02-02T00:00:00"),
            ("30 8-10 * jan,Mar *", "2026-01-31T10:30:00"),
            ("1/20 * * * *", "2026-01-31T10:21:00"),
            ("@hourly", "2026-01-31T11:00:00"),
            ("@weekly", "2026-02-01T00:00:00"),
            ("@yearly", "2027-01-01T00:00:00"),
            ("@every 1h30m", "2026-01-31T11:37:30"),
        ];
        for (text, expected) in cases {
            let after: Zoned = after.parse().unwrap();
            let next = Schedule::parse(text).unwrap().next(&after).unwrap();
            assert_eq!(next.datetime().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn impossible_days_never_come() {
        let after: Zoned = "2026-01-31T10:07:30[UTC]".parse().unwrap();
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap().next(&after), None);
    }

    #[test]
    fn refusals_say_why() {
        let cases = [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x"),
        ];
        for (text, expected) in cases {
            assert_eq!(Schedule::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
