package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed templates assets
var archive embed.FS

// asset is one file as it is served.
type asset struct {
	kind         string
	plain, small []byte // as it is, and by gzip
}

// assets are the files of the console. Their addresses name their content, so that a browser keeps them for good.
type assets struct {
	files   map[string]asset
	version string
}

// Path is the address of a file, such as console.css.
func (a assets) Path(name string) string { return "/assets/" + a.version + "/" + name }

func readAssets() (assets, error) {
	a := assets{files: map[string]asset{}}
	all := sha256.New()
	err := fs.WalkDir(archive, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := archive.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(all, "%s %d\n", name, len(b))
		all.Write(b)
		kind := mime.TypeByExtension(path.Ext(name))
		switch path.Ext(name) { // the same on every machine
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		case ".css":
			kind = "text/css; charset=utf-8"
		}
		a.files[strings.TrimPrefix(name, "assets/")] = asset{kind, b, zipped(b)}
		return nil
	})
	a.version = hex.EncodeToString(all.Sum(nil))[:12]
	return a, err
}

// ServeHTTP implements http.Handler.
func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/assets/"), "/")
	f, ok := a.files[name]
	if !ok || version != a.version {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	body := f.plain
	w.Header().Set("Vary", "Accept-Encoding")
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		body = f.small
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a browser that went away
}

func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(part, ";")
		if strings.TrimSpace(name) == "gzip" {
			return !strings.Contains(q, "q=0") || strings.Contains(q, "q=0.")
		}
	}
	return false
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // a level that there is
	_, _ = z.Write(b)                                 // to memory
	_ = z.Close()
	return out.Bytes()
}

// leastZipped is the size in bytes from which on a page is worth zipping.
const leastZipped = 2048

// writeZipped sends a body, zipped for who takes that.
func writeZipped(w http.ResponseWriter, r *http.Request, code int, body []byte) {
	w.Header().Add("Vary", "Accept-Encoding")
	if len(body) >= leastZipped && takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		body = zipped(body)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // a browser that went away
}
