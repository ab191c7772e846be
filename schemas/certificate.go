package schemas

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"time"
)

// NameCertificate is the name of the day certificate's schema.
const NameCertificate = "certificate"

// Certificate says what the ledger holds of one machine's service day, signed, so that it can be
// checked years later without the ledger. It is no topic: it is issued by `farebeat ledger certify`
// and by the fleet service, one JSON object, and its bytes are what is signed.
//
// RecordsHash is the SHA-256 over the SHA-256 of every record of the day, by epoch and seq (RecordsHash).
// Signature is Ed25519 over "farebeat v1 certificate", 0, and the bytes before `,"signature":`.
type Certificate struct {
	Machine     string            `json:"machine"`
	ServiceDate string            `json:"service_date"` // YYYY-MM-DD, GTFS service day
	Revision    uint32            `json:"revision"`     // counts from 1; 0: drawn up and not issued
	IssuedAt    time.Time         `json:"issued_at"`
	Complete    bool              `json:"complete"` // verified all, and nothing is missing that may belong to the day
	Epochs      []CertifiedEpoch  `json:"epochs"`   // oldest first
	Received    uint64            `json:"received"` // records of the day in the ledger's books
	Verified    uint64            `json:"verified"` // records of the day whose form and MAC were proved
	Sums        []CertifiedSum    `json:"sums"`     // of the verified records, by currency
	Missing     uint64            `json:"missing"`  // numbers that may belong to the day and are not in the ledger
	Quarantined CertifiedEvidence `json:"quarantined"`
	Declared    *DeclaredJournal  `json:"declared,omitempty"` // nil: the machine was never heard
	RecordsHash string            `json:"records_hash"`
	Previous    string            `json:"previous,omitempty"` // signature of the revision before this one
	Signature   string            `json:"signature"`
}

// CertifiedEpoch is what a day has of one epoch.
type CertifiedEpoch struct {
	Epoch      uint32   `json:"epoch"`
	First      uint32   `json:"first"`          // lowest seq of the day
	Last       uint32   `json:"last"`           // highest seq of the day
	Records    uint64   `json:"records"`        // of the day; between them may be records of other days
	CompleteTo uint32   `json:"complete_to"`    // all of 1..CompleteTo are in the ledger
	Gaps       []DayGap `json:"gaps,omitempty"` // lowest first, at most MaxDayGaps; Missing counts all
}

// MaxDayGaps bounds the gaps that a certificate lists of one epoch, MaxDayEpochs its epochs.
const (
	MaxDayGaps   = 1000
	MaxDayEpochs = 1000
)

// DayGap is a run of numbers that may belong to a day and are not in the ledger.
type DayGap struct {
	First uint32   `json:"first"`
	Last  uint32   `json:"last"`
	State GapState `json:"state"`
}

// GapState is what is known about the records of a gap.
type GapState string

// The states of a gap.
const (
	GapAwaited    GapState = "awaited"    // the machine says that it holds records; they are asked for again
	GapGone       GapState = "gone"       // the machine says that it holds none of them any more
	GapUnreadable GapState = "unreadable" // what came in its place stands in quarantine
	GapUnknown    GapState = "unknown"    // the machine has not said
)

// CertifiedSum is an amount in minor units of an ISO 4217 currency.
type CertifiedSum struct {
	Currency string `json:"currency"`
	Minor    int64  `json:"minor"`
}

// CertifiedEvidence counts the pieces of evidence in quarantine under the day's numbers.
type CertifiedEvidence struct {
	Conflicts   uint64 `json:"conflicts"`    // another record signed under the same key
	BrokenChain uint64 `json:"broken_chain"` // records of the day that do not follow the one before them
	Unreadable  uint64 `json:"unreadable"`   // forged or malformed, in place of a missing record
}

// DeclaredJournal is what the machine said last of its journal, whatever the day.
type DeclaredJournal struct {
	At      time.Time `json:"at"`       // when it was heard
	Epoch   uint32    `json:"epoch"`    // its newest; 0: it has none
	LastSeq uint32    `json:"last_seq"` // last record written in Epoch
	Pending uint32    `json:"pending"`  // records without a receipt
}

// signatureMember begins the last member of a certificate. Before it lies what is signed.
const signatureMember = `,"signature":"`

// signatureTail is the length of that member: the unpadded base64url of 64 bytes between its quotes, and the closing brace.
const signatureTail = len(signatureMember) + 86 + len(`"}`)

// ErrSignature says that a certificate was not made with the operator's key, or was changed since.
var ErrSignature = errors.New("the signature does not match: it was changed, or another key signed it")

// SealCertificate returns the bytes of c, signed by sign, and sets c.Signature.
func SealCertificate(c *Certificate, sign func(message []byte) ([]byte, error)) ([]byte, error) {
	c.IssuedAt = c.IssuedAt.UTC().Truncate(time.Millisecond)
	c.Signature = base64.RawURLEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))
	draft, err := Encode(c)
	if err != nil {
		return nil, fmt.Errorf("seal certificate: %w", err)
	}
	body := draft[:len(draft)-signatureTail]
	signature, err := sign(certified(body))
	if err != nil {
		return nil, fmt.Errorf("seal certificate: %w", err)
	}
	if len(signature) != ed25519.SignatureSize {
		return nil, fmt.Errorf("seal certificate: the signature has %d bytes, want %d", len(signature), ed25519.SignatureSize)
	}
	c.Signature = base64.RawURLEncoding.EncodeToString(signature)
	return append(append(append(body, signatureMember...), c.Signature...), `"}`...), nil
}

// OpenCertificate reads a certificate and checks its form and signature. The error wraps
// ErrSignature where only the signature is wrong.
func OpenCertificate(public ed25519.PublicKey, b []byte) (Certificate, error) {
	var c Certificate
	if err := Decode(b, NameCertificate, &c); err != nil {
		return c, err
	}
	cut := len(b) - signatureTail
	if cut < 1 || b[0] != '{' || string(b[cut:]) != signatureMember+c.Signature+`"}` {
		return c, &Error{Message: NameCertificate, Field: "signature", Problem: "is not the last member of compact JSON: keep the bytes as they were issued"}
	}
	signature, err := base64.RawURLEncoding.DecodeString(c.Signature)
	if err != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, certified(b[:cut]), signature) {
		return c, fmt.Errorf("certificate of machine %q, service day %s, revision %d: %w", c.Machine, c.ServiceDate, c.Revision, ErrSignature)
	}
	return c, nil
}

// certified is what is signed for the bytes of a certificate before its signature.
func certified(body []byte) []byte { return append([]byte("farebeat v1 certificate\x00"), body...) }

// RecordsHash adds up the hash of a day's records: each is to be written once, by epoch and seq.
type RecordsHash struct{ sum hash.Hash }

// NewRecordsHash returns the hash of no record.
func NewRecordsHash() RecordsHash { return RecordsHash{sha256.New()} }

// Add takes in the next record's bytes.
func (h RecordsHash) Add(record []byte) {
	one := HashRecord(record)
	h.sum.Write(one[:])
}

// String is the hash as the certificate carries it.
func (h RecordsHash) String() string { return base64.RawURLEncoding.EncodeToString(h.sum.Sum(nil)) }

// Validate implements Message.
func (c *Certificate) Validate() error {
	k := checker{message: NameCertificate}
	k.id("machine", c.Machine)
	k.date("service_date", c.ServiceDate)
	k.time("issued_at", c.IssuedAt)
	k.atMost("epochs", len(c.Epochs), MaxDayEpochs)
	records := uint64(0)
	for i := range c.Epochs {
		if k.err != nil {
			break
		}
		field := fmt.Sprintf("epochs[%d]", i)
		k.that(i == 0 || c.Epochs[i].Epoch > c.Epochs[i-1].Epoch, field+".epoch", "is not newer than the one before it")
		c.Epochs[i].check(&k, field)
		records += c.Epochs[i].Records
	}
	k.that(records == c.Received, "received", "is not the sum over the epochs")
	k.that(c.Verified <= c.Received, "verified", "is greater than received")
	k.that(!c.Complete || c.Missing == 0 && c.Verified == c.Received, "complete", "is true with records missing or not verified")
	k.atMost("sums", len(c.Sums), MaxDaySums)
	for i, s := range c.Sums {
		field := fmt.Sprintf("sums[%d].currency", i)
		k.currency(field, s.Currency)
		k.that(i == 0 || s.Currency > c.Sums[i-1].Currency, field, "is not after the one before it")
	}
	if c.Declared != nil {
		k.time("declared.at", c.Declared.At)
	}
	k.hash("records_hash", c.RecordsHash)
	if c.Previous != "" {
		k.bytes("previous", c.Previous, ed25519.SignatureSize)
	}
	k.that((c.Revision > 1) == (c.Previous != "") || c.Revision == 0, "previous", "names the revision before: every one but the first has it")
	k.bytes("signature", c.Signature, ed25519.SignatureSize)
	return k.err
}

// MaxDaySums bounds the currencies of a day.
const MaxDaySums = 200

func (e *CertifiedEpoch) check(k *checker, field string) {
	k.that(e.Epoch > 0, field+".epoch", "is 0")
	k.that(e.First > 0 && e.Last >= e.First, field+".first", "is 0 or after last")
	k.that(e.Records > 0 && e.Records <= uint64(e.Last)-uint64(e.First)+1, field+".records", "is 0 or more than first to last have room for")
	k.atMost(field+".gaps", len(e.Gaps), MaxDayGaps)
	for i, g := range e.Gaps {
		if k.err != nil {
			return
		}
		at := fmt.Sprintf("%s.gaps[%d]", field, i)
		k.that(g.First > e.CompleteTo && g.Last >= g.First && (i == 0 || g.First > e.Gaps[i-1].Last), at, "is not in order after complete_to")
		oneOf(k, at+".state", g.State, GapAwaited, GapGone, GapUnreadable, GapUnknown)
	}
}

func (c *checker) date(field, v string) {
	if _, err := time.Parse(time.DateOnly, v); err != nil {
		c.that(false, field, fmt.Sprintf("%.32q: want YYYY-MM-DD", v))
	}
}

// bytes checks n bytes in base64url. The length is checked as well: decoding skips line ends.
func (c *checker) bytes(field, v string, n int) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(v)
	if err != nil || len(b) != n || len(v) != base64.RawURLEncoding.EncodedLen(n) {
		c.that(false, field, fmt.Sprintf("want %d bytes as unpadded base64url", n))
	}
}
