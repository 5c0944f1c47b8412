//! Parsers of values. Each names what it expects, and gives its bounds to the help text.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};

/// A whole number within bounds. `unit` is what it counts.
pub fn whole<T: TryFrom<u64>>(least: u64, most: u64, unit: &'static str) -> Whole<T> {
    Whole { least, most, unit, value: PhantomData }
}

/// A duration in milliseconds; the variable's name should end in `_MS`.
pub fn millis(least: u64, most: u64) -> impl TypedValueParser<Value = Duration> {
    whole::<u64>(least, most, "ms").map(Duration::from_millis)
}

/// An address to listen on.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("`{text}` is not an address and a port, such as 127.0.0.1:8081"))
}

/// A switch: `1`, `true`, `on`, `yes` or `0`, `false`, `off`, `no`.
pub fn switch() -> impl TypedValueParser<Value = bool> {
    Words { words: &["on", "off"], parse: parse_switch }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "false" | "off" | "no" => Ok(false),
        "1" | "true" | "on" | "yes" => Ok(true),
        other => Err(format!("`{other}` is neither 1 nor 0")),
    }
}

/// One of some words.
pub fn choice<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
{
    let parse = move |text: &str| text.parse().map_err(|_| format!("`{text}` is not {}", any_of(words)));
    Words { words, parse }
}

fn any_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// See [`whole`].
pub struct Whole<T> {
    least: u64,
    most: u64,
    unit: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Whole<T> {
    fn clone(&self) -> Self {
        Self { value: PhantomData, ..*self }
    }
}

impl<T: TryFrom<u64>> Whole<T> {
    fn parse(&self, text: &str) -> Result<T, String> {
        let (least, most, text) = (self.least, self.most, text.trim());
        let expected = || format!("`{text}` is not a whole number from {least} to {most}");
        let value: u64 = text.parse().map_err(|_| expected())?;
        if !(least..=most).contains(&value) {
            return Err(format!("{value} is not within {least} to {most}"));
        }
        T::try_from(value).map_err(|_| expected())
    }
}

impl<T: TryFrom<u64> + Clone + Send + Sync + 'static> TypedValueParser for Whole<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parser = self.clone();
        (move |text: &str| parser.parse(text)).parse_ref(command, arg, value)
    }

    /// The bounds, with the unit as their help.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let bounds = PossibleValue::new(format!("{} to {}", self.least, self.most)).help(self.unit);
        Some(Box::new(std::iter::once(bounds)))
    }
}

#[derive(Clone)]
struct Words<P> {
    words: &'static [&'static str],
    parse: P,
}

impl<T, P> TypedValueParser for Words<P>
where
    T: Clone + Send + Sync + 'static,
    P: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parse = self.parse.clone();
        (move |text: &str| parse(text.trim())).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().map(PossibleValue::new)))
    }
}
