// Package orders carries what a person orders at the command line to the service that runs, by files in a folder beside its store.
package orders

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/durable"
)

// The store has one writer. A command line that is to order something while the service runs leaves the order as a file in
// a folder beside the store, and the service takes it from there. Whoever may write there may write the store.
const (
	orderSuffix   = ".json"
	refusedSuffix = ".refused" // of a file that is no order
	maxOrder      = 8 << 10    // bytes of a file
	maxTaken      = 100        // files at a time
)

// Order is what can be ordered. It is written as JSON.
type Order interface {
	Validate() error            // says which field is wrong
	Given() (string, time.Time) // a random id of letters and digits, and when it was given
}

// Left is an order in a folder.
type Left[O Order] struct {
	Order O
	Path  string
}

// Leave writes an order into a folder, which is made where it is missing, and returns the file's path. The order is on disk
// then. The service that takes it removes the file when it has the order on disk itself.
func Leave(dir string, o Order) (path string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("leave an order: %w", err)
		}
	}()
	if err := o.Validate(); err != nil {
		return "", err
	}
	id, at := o.Given()
	if strings.ContainsFunc(id, func(r rune) bool { return r < '0' || r > 'z' || r == '\\' }) {
		return "", fmt.Errorf("id %q: only letters and digits", id)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	// The order of names is that of time. The folder keeps others out; the service may be another user than root.
	path = filepath.Join(dir, at.UTC().Format("20060102T150405.000000000")+"-"+id+orderSuffix)
	if err := durable.Replace(path, body, 0o644, nil); err != nil {
		return "", err
	}
	return path, nil
}

// AnyLeft reports whether there may be orders in a folder. It is a quick look.
func AnyLeft(dir string) bool {
	if dir == "" {
		return false
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // Take says what is wrong
	}
	return slices.ContainsFunc(entries, isOrder)
}

func isOrder(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), orderSuffix) }

// Take reads the orders in a folder, oldest first. Files that are no orders are renamed, and named in the error together
// with those that cannot be read; the others are returned nevertheless.
func Take[O Order](dir string) (list []Left[O], err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take orders: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !isOrder(e) })
	var errs []error
	for _, e := range entries[:min(len(entries), maxTaken)] {
		path := filepath.Join(dir, e.Name())
		o, err := readOrder[O](path)
		if errors.Is(err, errNoOrder) {
			err = errors.Join(err, os.Rename(path, path+refusedSuffix))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("take the order %s: %w", path, err))
			continue
		}
		list = append(list, Left[O]{o, path})
	}
	return list, errors.Join(errs...)
}

// Refused is where Take puts the file of an order that it refuses.
func Refused(path string) string { return path + refusedSuffix }

var errNoOrder = errors.New("not an order")

func readOrder[O Order](path string) (o O, err error) {
	f, err := os.Open(path)
	if err != nil {
		return o, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return o, err
	}
	if !info.Mode().IsRegular() {
		return o, fmt.Errorf("%w: not a regular file", errNoOrder)
	}
	body, err := io.ReadAll(io.LimitReader(f, maxOrder+1))
	if err != nil {
		return o, err
	}
	return parseOrder[O](body)
}

func parseOrder[O Order](body []byte) (o O, err error) {
	if len(body) > maxOrder {
		return o, fmt.Errorf("%w: more than %d bytes", errNoOrder, maxOrder)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("%w: %w", errNoOrder, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, fmt.Errorf("%w: there is more after it", errNoOrder)
	}
	if err := o.Validate(); err != nil {
		return o, fmt.Errorf("%w: %w", errNoOrder, err)
	}
	return o, nil
}
