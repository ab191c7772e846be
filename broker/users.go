package broker

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/farebeat/farebeat/topics"
)

// User is one line of a users file.
type User struct {
	Name   string      // MQTT user name
	Role   topics.Role // what it is to the tree
	ID     string      // machine or vehicle id for those roles, else empty
	Hash   string      // of its password, see HashPassword and HashSecret
	Grants []string    // filters a third party may read beyond its role
}

// Users are the clients that may connect. They are immutable.
type Users struct {
	byName map[string]User
	chosen bool // somebody has a chosen password, whose bcrypt hash takes its time
}

// NewUsers makes users of a list; a name may stand once.
func NewUsers(list []User) (*Users, error) {
	u := &Users{byName: map[string]User{}}
	for _, user := range list {
		if err := user.check(); err != nil {
			return nil, err
		}
		if _, twice := u.byName[user.Name]; twice {
			return nil, fmt.Errorf("user %q: given twice", user.Name)
		}
		u.byName[user.Name] = user
		u.chosen = u.chosen || !strings.HasPrefix(user.Hash, sha256Prefix)
	}
	return u, nil
}

func (u User) check() error {
	if u.Name == "" || strings.ContainsAny(u.Name, ": \t\r\n#") {
		return fmt.Errorf("user %q: want a name without colon, hash or space", u.Name)
	}
	if !slices.Contains(topics.Roles(), u.Role) {
		return fmt.Errorf("user %q: role %q: want one of %v", u.Name, u.Role, topics.Roles())
	}
	bound := u.Role == topics.RoleMachine || u.Role == topics.RoleGateway
	if bound != (u.ID != "") {
		return fmt.Errorf("user %q: an id is given for the roles machine and gateway, and only for them", u.Name)
	}
	if digest, isSecret := strings.CutPrefix(u.Hash, sha256Prefix); isSecret {
		if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size || strings.ToLower(digest) != digest {
			return fmt.Errorf("user %q: the sha256 hash is not 64 hex digits in lower case", u.Name)
		}
	} else if _, err := bcrypt.Cost([]byte(u.Hash)); err != nil {
		return fmt.Errorf("user %q: the hash is neither bcrypt nor sha256", u.Name)
	}
	return nil
}

// ErrBadPassword is what Check returns for an unknown user or a wrong password.
var ErrBadPassword = errors.New("user name or password is wrong")

// Check returns the identity of a user who knows the password.
func (u *Users) Check(name string, password []byte) (topics.Identity, error) {
	user, ok := u.byName[name]
	if !ok {
		// As slow as the slowest known user, so that names of people cannot be probed; machines have made secrets.
		if u.chosen {
			_ = bcrypt.CompareHashAndPassword([]byte(unknownUser), password)
		}
		return topics.Identity{}, ErrBadPassword
	}
	if want, isSecret := strings.CutPrefix(user.Hash, sha256Prefix); isSecret {
		got := sha256.Sum256(password)
		if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(got[:])), []byte(want)) != 1 {
			return topics.Identity{}, ErrBadPassword
		}
	} else if bcrypt.CompareHashAndPassword([]byte(user.Hash), password) != nil {
		return topics.Identity{}, ErrBadPassword
	}
	id := topics.Identity{Role: user.Role, Name: user.Name, Grants: user.Grants}
	if user.ID != "" {
		id.Name = user.ID
	}
	return id, nil
}

// unknownUser is the bcrypt hash, at the default cost, of a password that nobody knows.
const unknownUser = "$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5B0a0lC4Tj5n0mBrdvhlNr7Yv8bK2"

const sha256Prefix = "sha256:"

// HashPassword hashes a password that a person chose.
func HashPassword(password string) (string, error) {
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}

// NewSecret makes a password of 256 random bits and its hash, which need not be slow:
// nobody guesses such a password, and a city of machines connects within seconds.
func NewSecret() (secret, hash string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	secret = hex.EncodeToString(b)
	sum := sha256.Sum256([]byte(secret))
	return secret, sha256Prefix + hex.EncodeToString(sum[:])
}

// LoadUsers reads a users file. It must be readable by its owner only, for it is as good as
// a list of passwords that may be guessed.
func LoadUsers(path string) (*Users, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("users file %s: mode %04o lets others read it: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	list, err := ParseUsers(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("users file %s %w", path, err)
	}
	users, err := NewUsers(list)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return users, nil
}

// ParseUsers reads lines of name:role:id:hash:grant,grant. Empty lines and those that begin with #
// are skipped; id and grants may be empty.
func ParseUsers(r io.Reader) ([]User, error) {
	var list []User
	scanner := bufio.NewScanner(r)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, _ := strings.Cut(line, ":")
		role, rest, _ := strings.Cut(rest, ":")
		id, rest, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, fmt.Errorf("line %d: want name:role:id:hash:grants", n)
		}
		var hash, grants string
		if after, isSecret := strings.CutPrefix(rest, sha256Prefix); isSecret {
			digest, g, _ := strings.Cut(after, ":")
			hash, grants = sha256Prefix+digest, g
		} else {
			hash, grants, _ = strings.Cut(rest, ":")
		}
		u := User{Name: name, Role: topics.Role(role), ID: id, Hash: hash}
		if grants != "" {
			u.Grants = strings.Split(grants, ",")
		}
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, u)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("line too long: %w", err)
	}
	return list, nil
}

// Line is the user as a line of a users file, without a line feed.
func (u User) Line() string {
	return strings.Join([]string{u.Name, string(u.Role), u.ID, u.Hash, strings.Join(u.Grants, ",")}, ":")
}
