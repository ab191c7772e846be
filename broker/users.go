package broker

import (
	"bufio"
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

// same reports whether a client that connected as u may stay now that the file says o.
func (u User) same(o User) bool {
	return u.Name == o.Name && u.Role == o.Role && u.ID == o.ID && u.Hash == o.Hash && slices.Equal(u.Grants, o.Grants)
}

// identity is who the user is to the tree.
func (u User) identity() topics.Identity {
	id := topics.Identity{Role: u.Role, Name: u.Name, Grants: u.Grants}
	if u.ID != "" {
		id.Name = u.ID
	}
	return id
}

// knows reports whether password is the user's.
func (u User) knows(password []byte) bool {
	want, isSecret := strings.CutPrefix(u.Hash, sha256Prefix)
	if !isSecret {
		return bcrypt.CompareHashAndPassword([]byte(u.Hash), password) == nil
	}
	got := sha256.Sum256(password)
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(got[:])), []byte(want)) == 1
}

// ErrBadPassword is what Check returns for an unknown user or a wrong password.
var ErrBadPassword = errors.New("user name or password is wrong")

// userTable is one content of a users file. It is immutable.
type userTable struct {
	byName map[string]User
	owners map[string][]string // grants of whoever owns sessions, by the prefix of their ids
	chosen bool                // somebody has a chosen password, whose bcrypt hash takes its time
}

func newUserTable(list []User) (*userTable, error) {
	t := &userTable{byName: map[string]User{}, owners: map[string][]string{}}
	for _, user := range list {
		if err := user.check(); err != nil {
			return nil, err
		}
		if _, twice := t.byName[user.Name]; twice {
			return nil, fmt.Errorf("user %q: given twice", user.Name)
		}
		t.byName[user.Name] = user
		t.owners[owner(byUser, user.identity())] = user.Grants
		t.chosen = t.chosen || !strings.HasPrefix(user.Hash, sha256Prefix)
	}
	return t, nil
}

// check returns the user who knows the password.
func (t *userTable) check(name string, password []byte) (User, error) {
	user, ok := t.byName[name]
	if !ok {
		// As slow as the slowest known user, so that names of people cannot be probed; machines have made secrets.
		if t.chosen {
			_ = bcrypt.CompareHashAndPassword([]byte(unknownUser), password)
		}
		return User{}, ErrBadPassword
	}
	if !user.knows(password) {
		return User{}, ErrBadPassword
	}
	return user, nil
}

// slow reports whether to check the password of a name takes its time.
func (t *userTable) slow(name string) bool {
	if user, ok := t.byName[name]; ok {
		return !strings.HasPrefix(user.Hash, sha256Prefix)
	}
	return t.chosen
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

// readUsers reads a users file. It must be readable by its owner only, for it is as good as
// a list of passwords that may be guessed.
func readUsers(path string) (*userTable, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was read only
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("users file %s: mode %04o lets others read it: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	list, err := ParseUsers(f)
	if err != nil {
		return nil, fmt.Errorf("users file %s %w", path, err)
	}
	t, err := newUserTable(list)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return t, nil
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
