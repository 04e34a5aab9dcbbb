use super::*;

/// Writes fields: text, messages and numbers.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

fn varint(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
}

#[test]
fn objects_are_what_they_would_be_in_json() {
    let label = bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    // name, generateName, creationTimestamp and generation as Go writes them.
    let metadata = [bytes(1, b"web"), bytes(2, b""), bytes(8, b""), varint(7, 0), label].concat();
    let port = [
        bytes(1, b"http"),
        bytes(2, b"TCP"),
        varint(3, 80),
        bytes(4, &[varint(1, 1), varint(2, 0), bytes(3, b"web")].concat()),
        varint(5, 0),
    ];
    let unset = [
        bytes(1, b""),
        varint(3, 81),
        bytes(4, &[varint(1, 0), varint(2, 0), bytes(3, b"")].concat()),
        varint(5, 0),
    ];
    let spec = [
        bytes(1, &port.concat()),
        bytes(1, &unset.concat()),
        bytes(3, b""),
        bytes(4, b"ClusterIP"),
    ]
    .concat();
    let body =
        envelope("v1", "Service", &[bytes(1, &metadata), bytes(2, &spec), bytes(3, b"")].concat());
    assert_eq!(
        decode(&body).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"},
                    {"port": 81},
                ],
                "type": "ClusterIP",
            },
            "status": {},
        })
    );
}

#[test]
fn zeros_that_were_set_stay_and_embedded_messages_dissolve() {
    // Deployment with replicas 0, minReadySeconds 0.
    let spec = [varint(1, 0), varint(5, 0)].concat();
    let body = envelope("apps/v1", "Deployment", &bytes(2, &spec));
    assert_eq!(decode(&body).unwrap()["spec"], json!({"replicas": 0}));

    // A volume's source is a message of its own; in JSON it is not.
    let empty_dir = bytes(2, &bytes(2, &bytes(1, b"Memory")));
    let volume = [bytes(1, b"tmp"), empty_dir].concat();
    let body = envelope("v1", "Pod", &bytes(2, &bytes(1, &volume)));
    let expected = json!([{"name": "tmp", "emptyDir": {"medium": "Memory"}}]);
    assert_eq!(decode(&body).unwrap()["spec"]["volumes"], expected);
}

#[test]
fn values_of_every_kind_are_read() {
    let data = bytes(2, &[bytes(1, b"k"), bytes(2, b"\x00\xff")].concat());
    let secret = decode(&envelope("v1", "Secret", &data)).unwrap();
    assert_eq!(secret["data"], json!({"k": "AP8="}));

    let limit = bytes(1, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat());
    let container = [bytes(1, b"c"), bytes(8, &limit)].concat();
    let pod = decode(&envelope("v1", "Pod", &bytes(2, &bytes(2, &container)))).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "100m"}}));

    let options = decode(&envelope("apps/v1", "DeleteOptions", &varint(1, 0))).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn what_is_no_message_is_refused() {
    assert!(matches!(decode(b"{}"), Err(Malformed(_))));
    assert!(matches!(decode(b"k8s\0\x12\xff"), Err(Malformed(_))));
    assert!(matches!(decode(&envelope("v1", "Pod", &bytes(2, &varint(2, 1)))), Err(Malformed(_))));
    assert!(matches!(
        decode(&envelope("x/v1", "Thing", b"")),
        Err(DecodeError::UnknownType { .. })
    ));
    // JSONSchemaProps and the like may contain themselves; a label selector
    // may not, so depth comes from the deepest type there is.
    let mut raw = Vec::new();
    for _ in 0..200 {
        raw = bytes(2, &raw);
    }
    assert!(decode(&envelope("v1", "Pod", &raw)).is_err());
}
