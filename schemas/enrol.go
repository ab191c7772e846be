package schemas

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The names of the messages of enrolment, as errors carry them. They go over HTTPS and are on no topic.
const (
	NameEnrolRequest = "enrol-request"
	NameEnrolAnswer  = "enrol-answer"
	NameEnrolRefusal = "enrol-refusal"
)

// Where a device asks for its certificate, and where for the next one.
const (
	EnrolJoinPath  = "/enrol/v1/join"
	EnrolRenewPath = "/enrol/v1/renew"
)

// MaxEnrolMessage bounds a message of enrolment in bytes.
const MaxEnrolMessage = 32 << 10

// EnrolBackdate is how long before it is issued a certificate begins to hold: the clocks of devices are wrong.
const EnrolBackdate = 24 * time.Hour

// RenewFrom is when a certificate may be renewed: at two thirds of the time between its issue and its end.
func RenewFrom(notBefore, notAfter time.Time) time.Time {
	issued := notBefore.Add(EnrolBackdate)
	return issued.Add(notAfter.Sub(issued) / 3 * 2)
}

// EnrolRequest is what a device asks with. Of the certificate request only the public key is taken, and the proof that the device has the private
// one; who the device is says the code, or an administrator who admits it.
type EnrolRequest struct {
	CSR string `json:"csr"` // PKCS #10 in PEM form
	// Code is a one-time code, 26 characters of base32; empty: the device waits until somebody admits it, as does one whose code is not good.
	Code string `json:"code,omitempty"`
	// Role and Name are who it says that it is, for whoever admits it; both or none.
	Role string `json:"role,omitempty"`
	Name string `json:"name,omitempty"`
}

// Validate implements Message.
func (r *EnrolRequest) Validate() error {
	c := checker{message: NameEnrolRequest}
	c.that(len(r.CSR) <= maxPEM, "csr", fmt.Sprintf("%d bytes, at most %d", len(r.CSR), maxPEM))
	block, rest := pem.Decode([]byte(r.CSR))
	c.that(block != nil && block.Type == "CERTIFICATE REQUEST" && len(strings.TrimSpace(string(rest))) == 0, "csr", "is not one certificate request in PEM form")
	if r.Code != "" {
		c.that(isCode(r.Code), "code", "is not a code: 26 letters A to Z and digits 2 to 7")
	}
	c.text("role", r.Role, 0, 32)
	c.optionalID("name", r.Name)
	c.that((r.Role == "") == (r.Name == ""), "name", "comes together with role or not at all")
	return c.err
}

// String keeps the code out of logs.
func (r *EnrolRequest) String() string { return fmt.Sprintf("enrolment of %s %s", r.Role, r.Name) }

// GoString keeps the code out of %#v.
func (r *EnrolRequest) GoString() string { return r.String() }

// maxPEM bounds one certificate or request in PEM form, in bytes.
const maxPEM = 12 << 10

// What became of a request.
const (
	EnrolIssued  = "issued"
	EnrolWaiting = "waiting"
)

// EnrolAnswer is a certificate, or that the device has to wait for one. Who it is and where it belongs comes with the certificate.
type EnrolAnswer struct {
	Status      string `json:"status"`                // EnrolIssued or EnrolWaiting
	Fingerprint string `json:"fingerprint"`           // SHA-256 of the device's public key (SubjectPublicKeyInfo), hex: who admits it compares it
	Reason      string `json:"reason,omitempty"`      // waiting: what was wrong with the code, a refusal's reason
	Retry       int    `json:"retry,omitempty"`       // waiting: seconds after which asking again makes sense
	Certificate string `json:"certificate,omitempty"` // in PEM form
	Operator    string `json:"operator,omitempty"`    // level of the topic tree
	Role        string `json:"role,omitempty"`
	Name        string `json:"name,omitempty"`
	Vehicle     string `json:"vehicle,omitempty"`  // that carries a machine, where it was told
	TimeZone    string `json:"timezone,omitempty"` // IANA name
	Broker      string `json:"broker,omitempty"`   // URL of the broker, empty where the fleet has none for devices
	// MachineKey is the key of a machine, 32 bytes as hex. Only a machine gets it, and not with a renewal.
	MachineKey string `json:"machine_key,omitempty"`
	FirstEpoch uint32 `json:"first_epoch,omitempty"` // of a machine's journal, if that is new
}

// Validate implements Message.
func (a *EnrolAnswer) Validate() error {
	c := checker{message: NameEnrolAnswer}
	oneOf(&c, "status", a.Status, EnrolIssued, EnrolWaiting)
	key, err := hex.DecodeString(a.Fingerprint)
	c.that(err == nil && len(key) == 32, "fingerprint", "is not 32 bytes as hex")
	c.text("reason", a.Reason, 0, 64)
	c.that(a.Retry >= 0 && a.Retry <= 3600, "retry", "is not 0 to 3600 seconds")
	c.text("operator", a.Operator, 0, 64)
	c.text("role", a.Role, 0, 32)
	c.optionalID("name", a.Name)
	c.optionalID("vehicle", a.Vehicle)
	c.text("timezone", a.TimeZone, 0, 64)
	c.text("broker", a.Broker, 0, 512)
	if a.MachineKey != "" {
		key, err := hex.DecodeString(a.MachineKey)
		c.that(err == nil && len(key) == TicketKeySize, "machine_key", "is not 32 bytes as hex")
	}
	if a.Status == EnrolIssued {
		block, _ := pem.Decode([]byte(a.Certificate))
		c.that(len(a.Certificate) <= maxPEM && block != nil && block.Type == "CERTIFICATE", "certificate", "is not a certificate in PEM form")
		c.that(a.Operator != "" && a.Role != "" && a.Name != "", "name", "comes with a certificate, as role and operator do")
	}
	return c.err
}

// String keeps the machine's key out of logs.
func (a *EnrolAnswer) String() string {
	return fmt.Sprintf("enrolment of %s %s: %s", a.Role, a.Name, a.Status)
}

// GoString keeps the machine's key out of %#v.
func (a *EnrolAnswer) GoString() string { return a.String() }

// EnrolRefusal is why a device gets nothing.
type EnrolRefusal struct {
	Reason string `json:"reason"` // a word for programs
	Text   string `json:"text"`   // for people: what is wrong and the way out
}

// Validate implements Message.
func (r *EnrolRefusal) Validate() error {
	c := checker{message: NameEnrolRefusal}
	c.text("reason", r.Reason, 1, 64)
	c.text("text", r.Text, 1, 1000)
	return c.err
}

// DecodeEnrol reads one message of enrolment of at most MaxEnrolMessage bytes, as Decode does.
func DecodeEnrol(b []byte, name string, m Message) error {
	if len(b) > MaxEnrolMessage {
		return &Error{Message: name, Problem: fmt.Sprintf("more than %d bytes", MaxEnrolMessage)}
	}
	return Decode(b, name, m)
}

// codeLength is that of a one-time code: 26 characters of base32 hold 130 bits.
const codeLength = 26

func isCode(s string) bool {
	return len(s) == codeLength && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// EnrolURL is all that a device needs to get its certificate, as text or in a QR code:
//
//	farebeat-enrol://HOST:PORT/ROLE/NAME/CODE#sha256=FINGERPRINT
//
// The fingerprint is the SHA-256 of the authority's certificate (DER), hex. The device trusts nobody else.
type EnrolURL struct {
	Address   string // host:port
	Role      string
	Name      string
	Code      string
	Authority [32]byte
}

const (
	enrolScheme = "farebeat-enrol"
	enrolPin    = "sha256="
)

// String is the URL itself: a secret until it was used.
func (u EnrolURL) String() string {
	return fmt.Sprintf("%s://%s/%s/%s/%s#%s%x", enrolScheme, u.Address, url.PathEscape(u.Role), url.PathEscape(u.Name), u.Code, enrolPin, u.Authority)
}

// ParseEnrolURL reads what EnrolURL.String writes; a code in small letters too. No error shows the code.
func ParseEnrolURL(s string) (EnrolURL, error) {
	const want = enrolScheme + "://HOST:PORT/ROLE/NAME/CODE#" + enrolPin + "FINGERPRINT"
	bad := func(format string, args ...any) (EnrolURL, error) {
		return EnrolURL{}, fmt.Errorf("enrolment URL: "+format+"; want "+want, args...)
	}
	if len(s) > 1024 {
		return bad("%d bytes, at most 1024", len(s))
	}
	p, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		return bad("it cannot be read")
	}
	if p.Scheme != enrolScheme || p.User != nil || p.RawQuery != "" || p.Opaque != "" {
		return bad("it is of another form")
	}
	if err := CheckHostPort(p.Host); err != nil {
		return bad("%w", err)
	}
	levels := strings.Split(p.EscapedPath(), "/")
	if len(levels) != 4 || levels[0] != "" {
		return bad("its path has another form")
	}
	u := EnrolURL{Address: p.Host, Code: strings.ToUpper(levels[3])}
	if !isCode(u.Code) {
		return bad("the code is not 26 letters A to Z and digits 2 to 7")
	}
	if u.Role, err = url.PathUnescape(levels[1]); err != nil {
		return bad("the role cannot be read")
	}
	if u.Name, err = url.PathUnescape(levels[2]); err != nil {
		return bad("the name cannot be read")
	}
	c := checker{message: "enrolment URL"}
	c.text("role", u.Role, 1, 32)
	c.id("name", u.Name)
	if c.err != nil {
		return EnrolURL{}, c.err
	}
	pin, ok := strings.CutPrefix(p.Fragment, enrolPin)
	if !ok {
		return bad("the fingerprint of the authority is missing")
	}
	if u.Authority, err = ParseFingerprint(pin); err != nil {
		return bad("%w", err)
	}
	return u, nil
}

// ParseFingerprint reads a SHA-256 as 64 hexadecimal digits, also with colons between the bytes.
func ParseFingerprint(s string) (sum [32]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("fingerprint of %d characters: want 64 hexadecimal digits of a SHA-256", len(s))
	}
	return [32]byte(b), nil
}

// ParseEnrolAddress gives host:port of https://host:port, by which devices reach the fleet.
func ParseEnrolAddress(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return "", fmt.Errorf("%.80q: want https://host:port", s)
	}
	return u.Host, CheckHostPort(u.Host)
}

// CheckHostPort wants host:port, both given.
func CheckHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || host == "" || n == 0 {
		return fmt.Errorf("address %.80q: want host:port", s)
	}
	return nil
}
