package notify

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
)

// The headers of a signed request, as the Standard Webhooks specification 1.0.0 names them
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp" // seconds since 1970
	HeaderSignature = "webhook-signature" // "v1,<base64>", several with spaces between them
)

const (
	secretPrefix  = "whsec_"
	signaturePart = "v1,"
	// The specification's bounds of a secret, in bytes.
	minSecret, maxSecret = 24, 64
)

// Tolerance is by how much the time of a request may differ from the receiver's.
const Tolerance = 5 * time.Minute

// Errors of Verify.
var (
	ErrUnsigned  = errors.New("the request has no signature")
	ErrSignature = errors.New("no signature of the request is of this secret")
	ErrTime      = errors.New("the request's time is too far from now")
)

// Secret is the symmetric key of one webhook. It is never printed.
type Secret struct{ key []byte }

// String masks the secret.
func (Secret) String() string { return secretPrefix + "********" }

// GoString masks the secret.
func (s Secret) GoString() string { return s.String() }

// ParseSecret reads "whsec_" and the base64 of 24 to 64 bytes. The error does not name the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, errors.New("want whsec_ followed by base64, as Standard Webhooks has it")
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Secret{}, errors.New("what follows whsec_ is not base64")
	}
	if len(key) < minSecret || len(key) > maxSecret {
		return Secret{}, fmt.Errorf("want %d to %d bytes, got %d", minSecret, maxSecret, len(key))
	}
	return Secret{key}, nil
}

// maxFile bounds a file of secrets, in bytes.
const maxFile = 16 << 10

// ReadSecrets reads the secrets of a webhook, one a line: a request is signed with each, so that a receiver may change from
// one to the next. Blank lines and those that begin with # are left out. Nobody but its owner may read or write the file.
func ReadSecrets(path string) ([]Secret, error) {
	text, err := keys.ReadSecret(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parseSecrets(path, text)
}

func parseSecrets(name string, text []byte) ([]Secret, error) {
	var secrets []Secret
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := ParseSecret(line)
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", name, n, err)
		}
		secrets = append(secrets, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%s holds no secret: write a line of whsec_ and the base64 of 24 to 64 random bytes to it", name)
	}
	return secrets, nil
}

// ReadAuthorization reads the value of an Authorization header, such as "Bearer TOKEN", from a file that nobody but its
// owner may read or write.
func ReadAuthorization(path string) (string, error) {
	text, err := keys.ReadSecret(path, maxFile)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(text))
	scheme, rest, found := strings.Cut(line, " ")
	if !found || scheme == "" || strings.TrimSpace(rest) == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: want one line such as %q", path, "Bearer TOKEN")
	}
	return line, nil
}

// sign is the base64 of the HMAC-SHA256 over "id.timestamp.body".
func (s Secret) sign(id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, s.key)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, timestamp) // a hash takes all
	_, _ = mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Sign sets the three headers of a request with this body. It is signed with each of the secrets.
func Sign(h http.Header, secrets []Secret, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = signaturePart + s.sign(id, timestamp, body)
	}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, timestamp)
	h.Set(HeaderSignature, strings.Join(signatures, " "))
}

// Verify is for a receiver: nil if the request with these headers and this body, byte for byte, was signed with the
// secret and is not older or newer than Tolerance. What is seen twice has the same HeaderID.
func Verify(secret Secret, h http.Header, body []byte, now time.Time) error {
	id, timestamp, signatures := h.Get(HeaderID), h.Get(HeaderTimestamp), h.Get(HeaderSignature)
	if id == "" || timestamp == "" || signatures == "" || len(secret.key) == 0 {
		return ErrUnsigned
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %s %q is no number of seconds", ErrTime, HeaderTimestamp, timestamp)
	}
	if at := time.Unix(seconds, 0); at.Before(now.Add(-Tolerance)) || at.After(now.Add(Tolerance)) {
		return fmt.Errorf("%w: it was sent at %s", ErrTime, at.UTC().Format(time.RFC3339))
	}
	want := signaturePart + secret.sign(id, timestamp, body)
	for signature := range strings.FieldsSeq(signatures) {
		if hmac.Equal([]byte(signature), []byte(want)) {
			return nil
		}
	}
	return ErrSignature
}
