//! Quantities: numbers with a unit, such as `500m`, `1.5Gi` or `1e3`.
//!
//! A value is kept as a whole number of billionths, upstream's finest unit, so
//! that sums and comparisons are exact. More digits are rounded away from
//! zero; magnitudes above 2^63-1 are cut to it.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

/// A number that remembers the family of suffixes it was written with.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Families of suffixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n`, `u`, `m`, none, `k`, `M`, `G`, `T`, `P`, `E`.
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`.
    BinarySi,
    /// `e3`, `E-2`.
    DecimalExponent,
}

/// Why text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with an optional suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// A suffix that is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
const MAX_NANOS: i128 = (i64::MAX as i128) * NANOS;

/// Decimal suffixes by their power of ten.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// Binary suffixes by their power of two.
const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number, written with decimal suffixes.
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANOS, format: Format::DecimalSi }
    }

    /// Thousandths, such as CPU millicores.
    pub fn from_millis(millis: i64) -> Quantity {
        Quantity { nanos: i128::from(millis) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Bytes, written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// The value as a whole number, rounded away from zero.
    pub fn units(self) -> i64 {
        saturate(divide_up(self.nanos, NANOS))
    }

    /// The value in bytes: [`Quantity::units`] under the name that reads well
    /// beside memory.
    pub fn bytes(self) -> i64 {
        self.units()
    }

    /// The value in thousandths, rounded away from zero.
    pub fn millis(self) -> i64 {
        saturate(divide_up(self.nanos, NANOS / 1000))
    }

    /// The value as a floating-point number, for ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// The family of suffixes it is written with.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether the value is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || integer.len() + fraction.len() == 0 {
            return Err(ParseError::Format);
        }
        let (power, format) = suffix_of(suffix)?;
        let magnitude = nanos(integer, fraction, power);
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

enum Power {
    Ten(i32),
    Two(u32),
}

fn suffix_of(suffix: &str) -> Result<(Power, Format), ParseError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Power::Ten(*power), Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Power::Two(*power), Format::BinarySi));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        // Anything that does not fit is far beyond the bounds on either side.
        let exponent: i64 = exponent.parse().map_err(|_| ParseError::Suffix)?;
        return Ok((Power::Ten(exponent.clamp(-1000, 1000) as i32), Format::DecimalExponent));
    }
    let letters =
        suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c)).trim_start_matches(['+', '-']);
    let shaped = letters.bytes().all(|b| b.is_ascii_digit());
    Err(if shaped { ParseError::Suffix } else { ParseError::Format })
}

/// `integer.fraction` times the power, in billionths, rounded up and bounded.
fn nanos(integer: &str, fraction: &str, power: Power) -> i128 {
    // 28 digits are more than the bound on values has; later ones only decide
    // whether to round up. Reading stays linear in the text.
    const DIGITS: i128 = 10_i128.pow(28);
    let (mut mantissa, mut exponent, mut rest) = (0_i128, 9_i32, false);
    for (index, digit) in integer.bytes().chain(fraction.bytes()).enumerate() {
        let in_fraction = index >= integer.len();
        if mantissa < DIGITS / 10 {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
            exponent -= i32::from(in_fraction);
        } else {
            rest |= digit != b'0';
            exponent = exponent.saturating_add(i32::from(!in_fraction));
        }
    }
    if mantissa == 0 {
        return 0;
    }
    match power {
        Power::Ten(ten) => exponent = exponent.saturating_add(ten),
        Power::Two(two) => match mantissa.checked_mul(1_i128 << two) {
            Some(product) => mantissa = product,
            None => {
                // Too large to multiply first: the fraction is far below one.
                let shift = 10_i128.pow(u32::try_from((-exponent).clamp(0, 28)).unwrap_or(0));
                exponent += (-exponent).clamp(0, 28);
                rest |= mantissa % shift != 0;
                match (mantissa / shift).checked_mul(1_i128 << two) {
                    Some(product) => mantissa = product,
                    None => return MAX_NANOS,
                }
            }
        },
    }
    let scale = 10_i128.checked_pow(exponent.unsigned_abs());
    let value = match (exponent >= 0, scale) {
        (true, Some(scale)) => mantissa.checked_mul(scale),
        (true, None) => None,
        (false, Some(scale)) => {
            rest |= mantissa % scale != 0;
            Some(mantissa / scale)
        }
        (false, None) => {
            rest = true;
            Some(0)
        }
    };
    value.map_or(MAX_NANOS, |value| (value + i128::from(rest)).min(MAX_NANOS))
}

impl fmt::Display for Quantity {
    /// Writes the canonical form: no fraction, the largest suffix that allows
    /// that, no sign unless negative.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // As upstream: 0.1Gi is 107374182400m, since a suffix must not cost
        // precision.
        let binary = self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0;
        match self.format {
            Format::BinarySi if binary => {
                let mut value = self.nanos / NANOS;
                let mut suffix = "";
                for (name, _) in BINARY {
                    if value % 1024 != 0 {
                        break;
                    }
                    value /= 1024;
                    suffix = name;
                }
                write!(f, "{value}{suffix}")
            }
            Format::BinarySi | Format::DecimalSi => {
                let (value, exponent) = strip_thousands(self.nanos, 18);
                let suffix = DECIMAL
                    .iter()
                    .find(|(_, power)| *power == exponent)
                    .map_or("", |(name, _)| name);
                write!(f, "{value}{suffix}")
            }
            Format::DecimalExponent => match strip_thousands(self.nanos, i32::MAX) {
                (value, 0) => write!(f, "{value}"),
                (value, exponent) => write!(f, "{value}e{exponent}"),
            },
        }
    }
}

/// Takes out factors of a thousand; the exponent stays within `limit`.
fn strip_thousands(nanos: i128, limit: i32) -> (i128, i32) {
    let (mut value, mut exponent) = (nanos, -9);
    while value % 1000 == 0 && exponent < limit {
        value /= 1000;
        exponent += 3;
    }
    (value, exponent)
}

/// Divides and rounds away from zero.
fn divide_up(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

// Two spellings of one value are equal.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// Keeps the left side's suffixes, unless the left side is zero.
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, format: self.format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|err| panic!("{text}: {err}"))
    }

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("0Mi", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("+3", "3"),
            ("-1.5", "-1500m"),
            ("1000", "1k"),
            ("1234567", "1234567"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("0.1Gi", "107374182400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("10e-3", "10e-3"),
            ("100e2", "10e3"),
            ("1E", "1E"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("99999999999999999999", "9223372036854775807"),
            ("-99999999999999999999", "-9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1e1000000", "9223372036854775807"),
            ("1e-1000000", "1e-9"),
            ("000000000000000000000000000000000000000001", "1"),
            ("1.00000000000000000000000000000000000000Gi", "1Gi"),
            ("200u", "200u"),
        ];
        for (text, canonical) in cases {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            ("", ParseError::Format),
            ("-", ParseError::Format),
            (".", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("abc", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1x", ParseError::Format),
            ("١", ParseError::Format),
            ("1mi", ParseError::Suffix),
            ("1KiB", ParseError::Format),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
        ];
        for (text, err) in cases {
            assert_eq!(text.parse::<Quantity>(), Err(err), "{text}");
        }
    }

    #[test]
    fn accessors_round_up() {
        assert_eq!(q("1500m").units(), 2);
        assert_eq!(q("-1500m").units(), -2);
        assert_eq!(q("1u").millis(), 1);
        assert_eq!(q("2").millis(), 2000);
        assert_eq!(q("64Mi").bytes(), 64 << 20);
        assert_eq!(q("9E").millis(), i64::MAX);
    }

    #[test]
    fn arithmetic_keeps_suffixes() {
        assert_eq!((q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1Mi") > q("1M"));
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(
            mantissa in -1_000_000_000_000_i64..1_000_000_000_000,
            fraction in "(\\.[0-9]{0,12})?",
            suffix in "(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]|e-[0-9])",
        ) {
            let first = q(&format!("{mantissa}{fraction}{suffix}"));
            let second = q(&first.to_string());
            prop_assert_eq!(first.to_string(), second.to_string());
            prop_assert_eq!(second.nanos, first.nanos);
        }

        #[test]
        fn reading_never_panics(text in "[-+]?[0-9.eEinumkKMGTPi]{0,60}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn sums_agree_with_integers(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
            let sum = Quantity::from_millis(a) + Quantity::from_millis(b);
            prop_assert_eq!(sum.millis(), a + b);
            prop_assert_eq!(Quantity::from_millis(a).cmp(&Quantity::from_millis(b)), a.cmp(&b));
        }
    }
}
