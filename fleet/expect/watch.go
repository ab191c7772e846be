package expect

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watcher loads again what was made from files when these change. It looks at their size and time of modification,
// so that it needs nothing of the file system and finds a file that was moved into place, too. A folder stands for the files in it and in its
// folders.
type Watcher struct {
	files []string
	load  func(context.Context) error

	mu     sync.Mutex // held while loading
	loaded string     // the print of the files that load was last called for
}

// NewWatcher makes a watcher of files, of which load makes something. load either puts all of the new in force, or
// returns an error that names the file, and leaves the old; calls of it wait for each other. Call Reload once before Run.
func NewWatcher(files []string, load func(context.Context) error) *Watcher {
	return &Watcher{files: slices.Clone(files), load: load}
}

// Reload calls load, changed files or not, and returns its error.
func (w *Watcher) Reload(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loaded = fingerprint(w.files) // before load reads them, so that a change meanwhile is seen
	return w.load(ctx)
}

// Watch looks at the files every so often until ctx ends. When they have changed, and are then unchanged for
// two looks, it calls Reload and tells report what became of it. Files that could not be loaded are tried again
// when they change again.
func (w *Watcher) Watch(ctx context.Context, every time.Duration, report func(error)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	seen := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		print := fingerprint(w.files)
		settled := print == seen
		seen = print
		if settled && print != w.last() {
			report(w.Reload(ctx))
		}
	}
}

func (w *Watcher) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loaded
}

// fingerprint changes when a file comes, goes, or is written to.
func fingerprint(files []string) string {
	var b strings.Builder
	for _, name := range files {
		if target, err := filepath.EvalSymlinks(name); err == nil {
			name = target // else the folder behind a link would not be walked
		}
		// What cannot be looked at is a state like another: load says what is wrong with it.
		_ = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				fmt.Fprintf(&b, "%s: %v\n", path, err)
				return nil
			}
			info, err := os.Stat(path) // what a link leads to
			switch {
			case err != nil:
				fmt.Fprintf(&b, "%s: %v\n", path, err)
			case d.IsDir():
				fmt.Fprintf(&b, "%s\n", path)
			default:
				fmt.Fprintf(&b, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return b.String()
}
