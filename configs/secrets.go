package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// credentialPrefix begins the value of a key that names a systemd credential in the stead of a file.
const credentialPrefix = "credential:"

// masterCredential is the credential that is the master key where nothing else is configured.
const masterCredential = "master-key"

// Secret is a string that is never printed.
type Secret string

// String masks the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// GoString masks the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalYAML masks the secret.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalText masks the secret, as in JSON and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// SecretVariables are the names of the environment variables that hold secrets. Whoever reads them takes them out of the process's
// environment, so that programs that it starts do not inherit them.
func SecretVariables() []string {
	var names []string
	eachField(reflect.ValueOf(new(Config)).Elem(), "", func(key string, v reflect.Value) {
		if v.Type() == reflect.TypeFor[Secret]() {
			names = append(names, variable(key))
		}
	})
	return names
}

// variable is the environment variable of a key.
func variable(key string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// UseCredentials turns the value credential:NAME of any key that names a file into the path of that credential in dir, the folder
// ($CREDENTIALS_DIRECTORY) in which systemd lays out what a unit loads; "" is for a process that has none. Where no master
// key is configured and there is a credential master-key, it is that. An *Error names each key whose credential is not there.
func (c *Config) UseCredentials(dir string) error {
	var problems []string
	eachField(reflect.ValueOf(c).Elem(), "", func(key string, v reflect.Value) {
		name, ok := strings.CutPrefix(v.String(), credentialPrefix)
		if v.Kind() != reflect.String || !ok || !strings.HasSuffix(key, "_file") {
			return
		}
		path, err := credential(dir, name)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s", key, err))
			return
		}
		v.SetString(path)
	})
	if problems != nil {
		return &Error{problems}
	}
	if c.Fleet.MasterKey == "" && c.Fleet.MasterKeyFile == "" && dir != "" {
		if path, err := credential(dir, masterCredential); err == nil {
			c.Fleet.MasterKeyFile = path
		}
	}
	return nil
}

// credential is the path of a credential that is there.
func credential(dir, name string) (string, error) {
	if name == "" || strings.ContainsAny(name, `/\`) || name == "." || name == ".." {
		return "", fmt.Errorf("%q is no name of a credential: want credential:NAME, as the unit's LoadCredential=NAME:/path has it", name)
	}
	if dir == "" {
		return "", fmt.Errorf("credential %q: systemd gave this process none (CREDENTIALS_DIRECTORY is not set); run it as the unit does: systemd-run --pipe -p LoadCredential=%s:/path farebeat COMMAND", name, name)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no credential %q; put LoadCredential=%s:/path into the unit", name, name)
	} else if err != nil {
		return "", fmt.Errorf("credential %q: %w", name, err)
	}
	return path, nil
}

// eachField visits the settable leaves below a struct, with their keys, also those in lists.
func eachField(v reflect.Value, key string, visit func(key string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachField(v.Field(i), join(key, v.Type().Field(i).Tag.Get("mapstructure")), visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			eachField(v.Index(i), fmt.Sprintf("%s[%d]", key, i), visit)
		}
	default:
		visit(key, v)
	}
}

// secretIn is the key of a secret that a YAML file sets, "" if it sets none.
func secretIn(n *yaml.Node, t reflect.Type, path string) string {
	if t.Kind() != reflect.Struct || n.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, ok := fieldByKey(t, key.Value)
		if !ok {
			continue
		}
		full := join(path, key.Value)
		if field.Type == reflect.TypeFor[Secret]() && value.Value != "" && value.Tag != "!!null" {
			return full
		}
		if found := secretIn(value, field.Type, full); found != "" {
			return found
		}
	}
	return ""
}

// modeProblem says why File may not have the secret that is in it, by the rim's rule for files with secrets; "" if it may.
func (o Options) modeProblem(doc *yaml.Node) string {
	key := secretIn(doc, reflect.TypeFor[Config](), "")
	if key == "" || o.Private == nil {
		return ""
	}
	info, err := os.Stat(o.File)
	if err == nil {
		err = o.Private(o.File, info)
	}
	if err != nil {
		return fmt.Sprintf("%s is in it: %s", key, err)
	}
	return ""
}
