package main

import (
	"bytes"
	"context"
	"database/sql" //nolint:depguard // to find the page of a table that is to be spoilt
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// fileCommands are commands of scripts that wait for a service and that damage files.
//
//	port NAME             sets a variable to a port that is free
//	await PORT            waits until somebody listens there
//	envsubst FILE         puts variables in
//	spoil FILE FROM TO    overwrites bytes with noise
//	spoiltable FILE TABLE overwrites the first page of a table
func fileCommands(of map[string]func(ts *testscript.TestScript, neg bool, args []string)) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	of["port"] = func(ts *testscript.TestScript, _ bool, args []string) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		ts.Check(l.Close())
	}
	of["await"] = func(ts *testscript.TestScript, _ bool, args []string) {
		every := time.NewTicker(20 * time.Millisecond)
		defer every.Stop()
		for range 3000 { // a service that does not start never listens
			conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", "127.0.0.1:"+args[0])
			if err == nil {
				ts.Check(conn.Close())
				return
			}
			<-every.C
		}
		ts.Fatalf("nobody listens at %s: the service did not start", args[0])
	}
	of["envsubst"] = func(ts *testscript.TestScript, _ bool, args []string) {
		text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
	}
	of["spoil"] = func(ts *testscript.TestScript, _ bool, args []string) {
		path := ts.MkAbs(args[0])
		b, err := os.ReadFile(path)
		ts.Check(err)
		from, err := strconv.Atoi(args[1])
		ts.Check(err)
		to, err := strconv.Atoi(args[2])
		ts.Check(err)
		noise := rand.New(rand.NewPCG(1, 2))
		for i := from; i < min(to, len(b)); i++ {
			b[i] = byte(noise.Uint32())
		}
		ts.Check(os.WriteFile(path, b, 0o600))
	}
	// spoilat FILE TEXT BYTES: spoils so many bytes from where a text stands first.
	of["spoilat"] = func(ts *testscript.TestScript, _ bool, args []string) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		ts.Check(err)
		at := bytes.Index(b, []byte(args[1]))
		if at < 0 {
			ts.Fatalf("%s: %q does not stand in it", args[0], args[1])
		}
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		of["spoil"](ts, false, []string{args[0], strconv.Itoa(at), strconv.Itoa(at + n)})
	}
	of["spoiltable"] = func(ts *testscript.TestScript, _ bool, args []string) {
		path := ts.MkAbs(args[0])
		db, err := sql.Open("sqlite", "file:"+path)
		ts.Check(err)
		var root, size int
		ts.Check(db.QueryRowContext(context.Background(), `SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?`, args[1]).Scan(&root, &size))
		ts.Check(db.Close())
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		ts.Check(err)
		_, err = f.WriteAt(bytes.Repeat([]byte{0xAA}, size), int64(root-1)*int64(size))
		ts.Check(errors.Join(err, f.Close()))
	}
	return of
}
