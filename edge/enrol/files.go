package enrol

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of a device's folder.
const (
	DeviceFile  = "device.pem" // key and certificate, mode 0600; names both client.cert_file and client.key_file
	PendingFile = "device.key" // key of a request that is under way, mode 0600
	CAFile      = "ca.pem"
	MachineFile = "machine.key" // of a machine, mode 0600
)

// nextSuffix is behind the name of a device's file for the key of a renewal that is under way.
const nextSuffix = ".next"

// Device is a device's key and certificate.
type Device struct {
	Key  *ecdsa.PrivateKey
	Cert *x509.Certificate
}

// ReadDevice reads the file with a device's key and certificate. One that others than its owner may read is refused.
func ReadDevice(path string) (Device, error) {
	text, err := readPrivate(path)
	if err != nil {
		return Device{}, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return Device{}, fmt.Errorf("%s: it is not a certificate with its key: %w", path, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return Device{}, fmt.Errorf("%s: its key is not ECDSA", path)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	return Device{key, cert}, err
}

// pem is the file's content. The certificate goes first, for programs that read only that.
func (d Device) pem() ([]byte, error) {
	key, err := keyPEM(d.Key)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Cert.Raw}), key...), err
}

func (d Device) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{d.Cert.Raw}, PrivateKey: d.Key, Leaf: d.Cert}
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// pendingKey reads the key of a request that is under way, or makes one that is on disk before anybody sees it.
func pendingKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: it is no private key in PEM form: remove it, and another is made", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: it is no ECDSA key: remove it, and another is made", path)
	}
	return key, nil
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, replace(path, text, 0o600)
}

// request is a certificate request: the key, and the proof that it is here. There are no names in it.
func request(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// Fingerprint is the SHA-256 of a public key (SubjectPublicKeyInfo), hex: an administrator compares it before a device is admitted.
func Fingerprint(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), err
}

// maxFile bounds a file that is read, in bytes.
const maxFile = 64 << 10

// readPrivate reads a file with a secret, which only its owner may read or write.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s: the file is open to others (mode %04o); run: chmod 600 %s", path, perm, path)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// replace puts a file in place whole: after a crash there is the one of before or the new one. The new one is on disk when it returns.
func replace(path string, body []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// remove deletes a file that may be gone already.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
