//! Each thing that a request may not ask for, and that it is told so.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequest, CustomExtension, DistinguishedName, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use weft_model::SpiffeId;

use super::{CheckedRequest, CsrError};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/order";

fn id() -> SpiffeId {
    ID.parse().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap()
}

fn verdict(change: impl FnOnce(&mut CertificateParams)) -> Result<(), CsrError> {
    CheckedRequest::check(request(&key(), change).der(), &id()).map(drop)
}

#[test]
fn a_request_for_ones_own_name_or_for_none_is_taken() {
    assert_eq!(verdict(|_| ()), Ok(()));
    assert_eq!(verdict(|p| p.subject_alt_names = vec![uri(ID)]), Ok(()));
    assert_eq!(verdict(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]), Ok(()));
}

#[test]
fn each_thing_that_workloads_do_not_get_has_its_own_refusal() {
    let other = || uri("spiffe://cluster.local/ns/shop/sa/payment");
    assert_eq!(verdict(|p| p.subject_alt_names = vec![other()]), Err(CsrError::ForeignIdentity));
    assert_eq!(verdict(|p| p.subject_alt_names = vec![uri(ID), other()]), Err(CsrError::SecondUri));
    assert_eq!(verdict(|p| p.subject_alt_names = vec![uri(ID), uri(ID)]), Err(CsrError::SecondUri));
    let dns = SanType::DnsName("order.shop".try_into().unwrap());
    assert_eq!(verdict(|p| p.subject_alt_names = vec![uri(ID), dns]), Err(CsrError::DnsName));
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    assert_eq!(verdict(|p| p.subject_alt_names = vec![address]), Err(CsrError::Address));
    let mail = SanType::Rfc822Name("order@shop".try_into().unwrap());
    assert_eq!(verdict(|p| p.subject_alt_names = vec![mail]), Err(CsrError::Unexpected));
    let signs = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    assert_eq!(verdict(|p| p.key_usages = signs), Err(CsrError::CertificateAuthority));
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(verdict(|p| p.is_ca = ca), Err(CsrError::CertificateAuthority));
    let odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    assert_eq!(verdict(|p| p.custom_extensions = vec![odd]), Err(CsrError::Unexpected));
}

#[test]
fn only_strong_keys_are_taken() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(CheckedRequest::check(request(&key, |_| ()).der(), &id()).is_ok(), "{algorithm:?}");
    }
    for (name, csr) in [("RSA 1024", RSA_1024), ("RSA 2048", RSA_2048), ("P-521", P_521)] {
        assert_eq!(CheckedRequest::check(&from_hex(csr), &id()).map(drop), Err(CsrError::WeakKey), "{name}");
    }
}

#[test]
fn the_signature_must_be_made_by_the_key_within() {
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (mut der, other) = (request(&ours, |_| ()).der().to_vec(), request(&theirs, |_| ()).der().to_vec());
    // Somebody else's public key under our signature: asking for a certificate of a key that one does not have.
    let key_at = |der: &[u8]| der.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap() + 2;
    let (at, from) = (key_at(&der), key_at(&other));
    der[at..at + 64].copy_from_slice(&other[from..from + 64]);
    assert_eq!(CheckedRequest::check(&der, &id()).map(drop), Err(CsrError::Signature));
}

#[test]
fn what_is_not_a_request_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut der = request(&key, |_| ()).der().to_vec();
    assert_eq!(CheckedRequest::check(&[], &id()).map(drop), Err(CsrError::Malformed));
    assert_eq!(CheckedRequest::check(&der[..der.len() - 1], &id()).map(drop), Err(CsrError::Malformed));
    der.push(0);
    assert_eq!(CheckedRequest::check(&der, &id()).map(drop), Err(CsrError::Malformed));
    let large = vec![0x30; 8 * 1024 + 1];
    assert_eq!(CheckedRequest::check(&large, &id()).map(drop), Err(CsrError::TooLarge { bytes: large.len() }));
}

#[test]
fn the_hash_tells_keys_apart_and_not_requests() {
    let key = KeyPair::generate().unwrap();
    let hash = |csr: CertificateSigningRequest| CheckedRequest::check(csr.der(), &id()).unwrap().key_hash();
    let one = hash(request(&key, |_| ()));
    assert_eq!(one, hash(request(&key, |p| p.subject_alt_names = vec![uri(ID)])));
    assert_ne!(one, hash(request(&KeyPair::generate().unwrap(), |_| ())));
}

proptest! {
    #[test]
    fn a_changed_bit_never_passes_with_another_key(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let key = KeyPair::generate().unwrap();
        let mut der = request(&key, |p| p.subject_alt_names = vec![uri(ID)]).der().to_vec();
        let before = CheckedRequest::check(&der, &id()).unwrap().key_hash();
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        // Some bits around the signature are not signed (the count of unused bits); nothing of them is taken.
        if let Ok(request) = CheckedRequest::check(&der, &id()) {
            prop_assert_eq!(request.key_hash(), before);
        }
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `openssl genrsa 1024`, `openssl req -new -subj / -outform DER`.
const RSA_1024: &str = "\
    3082013f3081a9020100300030819f300d06092a864886f70d010101050003818d0030818902818100e2cad07b0c4205c2d01c227f3311\
    1528951cee19a765c0e9e66ca2d171ae604f100b96f26824d8c7a1abb2ad94cf1c788b7fe5ebe9e427e23ddb1f30107ee5a8c2b1bee42a\
    b4ae7f33729c0653190984e69b03ba9b51e51063e984e3305f6e2e1da8266b9dec369f61e39510e2d37dc026614a265cfb36d4f28e023a\
    740fa4a90203010001a000300d06092a864886f70d01010b0500038181002a993715db017ec655ff4f5f91347c27f52aa30519cfb28a38\
    5631372f29f668a658ff6b3fced75ef46fb40b689066eb5bc97f41b6d0390966f2e4dd1eca1a977966bb9f908467c9d8c5044c57f66c0f\
    6240dea7a61530e93775d2ea6652c8b84034902d728bcd42c07cbc367fd5e536d3cd3ffee89308d570c12c1aa3c7db11";

/// The same with 2,048 bits: strong enough, and larger and slower than what we take.
const RSA_2048: &str = "\
    308202453082012d020100300030820122300d06092a864886f70d01010105000382010f003082010a02820101009c1020b031260b9c4f\
    aff2fe4c4e32a104a4f614f461ff93e1539f9d2734b95c50af09f4774d13dde5ad8ccf519ff0a46e93c8d834990c81d24411b2f03290f6\
    0816b7687eeb55541b8c523a56f133f9290c08874a9c42ab6b90fe571f19eb55d8c8188499bbc1d78c50838446c7a18960ce6ef7d548df\
    f1bfc418ff28f56aee55840469d76a575629816d09bc68647ae1bb23e25a5c42de4639b73d3e8734b3bbebd169aa5a8811854a41e74e0b\
    ffdbe437c3255873a23aff4842ff7ec9ceac10eaeaf77f2d49552503bf21e3d561233390d4020bfd953f588c0ed0d39e057d388bd6b97f\
    b68af2e0f1285f53a405618be324d1a60add9a771c2c9b936029c30203010001a000300d06092a864886f70d01010b0500038201010074\
    f585789afa47100702bf99ff9098b509611f75944e3d6085b7060175005a2578134ec57c85f55a0943c667fe49bef5bfa275421fbf45be\
    54fe1fa9e844f8b6116849ff42e4c893964943e2849392b82554b443abb7fc78edf4aa79683bb17c77422833952390a53df1e9cd66b2bf\
    d6ff35b4e45d61cdc097527278d62b68c68693a7f68a8e0d54b5e6cd5b13943e88a35b660a6efe87ef8752537d7c6997603c0d35ec9fb9\
    efbf8f7041d6de422de8ca1384c6aa3d0ae23ef1bc2c1483917299979742f09e62c09ac37226ffd2810608ae315b4556207eb74070031c\
    b383ca753e984b7cf1a44810abfc87e750c1073801cc798d8a761dca86279beade90ad";

/// The same with P-521, which *ring* cannot verify.
const P_521: &str = "\
    308201423081a5020100300030819b301006072a8648ce3d020106052b81040023038186000401b57499477e1c56d74ff4539a78dd93ab\
    c0a24493ff911e3bf7c14d293ac2a9f80b4827e81f9cdbdcf2f74eb50fbf60184228335136a0e38b2fc10aa0f9a9797ba300c226b06212\
    335169051dce38d505603f10227742eda599db40bb2e422835d1994048f8a435ed31a250c97ea2b69c52626bb53d3b639eafa9d9e9eaba\
    a02dee7b1ca000300a06082a8648ce3d04030203818b0030818702410575068d32860e6894a6e7b45d794dce5ae64d8e7c2f30601309f1\
    b1abec719ff6312b4cbcd5627a5c42d3f79362130786201e4fd08be0d09cd39b9ba66449eb010242008cc41fedd2b1e930719e94825a5e\
    d9a6def63f35a30b1b82c6e744a4aa7028c2bb1a701d535ffe86e06889ffc41b54e37ce6a9c4cb6373a922cac1248018755650";
