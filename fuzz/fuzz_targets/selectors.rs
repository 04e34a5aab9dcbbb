#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| skiff_apiserver::fuzzing::selectors(text));
