//! Messages between workers, and URIs.

use cnclip_data::redact::redact_uri;
use cnclip_data::store::StoreLocation;
use cnclip_distributed::control_message::ControlMessage;

pub(super) fn control_message(data: &[u8]) -> bool {
    let mut rest = data;
    let mut is_any_read = false;
    while let Ok(message) = ControlMessage::read_from(&mut rest) {
        let mut bytes = Vec::new();
        message
            .write_to(&mut bytes)
            .expect("memory takes every message");

        let read = ControlMessage::read_from(&mut &bytes[..]);
        assert_eq!(read.expect("what is written can be read"), message);
        if let ControlMessage::Failed(failure) = message {
            let _ = failure.to_error().to_string();
        }

        is_any_read = true;
    }

    is_any_read
}

pub(super) fn uri(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let redacted = redact_uri(&text);
    assert_eq!(redact_uri(&redacted), redacted, "{text:?}");

    match StoreLocation::parse(&text) {
        Ok(StoreLocation::Folder(folder)) => folder.is_absolute(),
        Ok(StoreLocation::Objects { prefix, .. }) => {
            // Prefixes have no parts that lead elsewhere.
            let is_name = |part: &str| !matches!(part, "" | "." | "..");
            assert!(prefix.parts().all(|part| is_name(part.as_ref())));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}
