package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if err := os.Unsetenv("FAREBEAT_ALERTMANAGER"); err != nil { // it is for tests of fleet/notify, and no key of the configuration
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"farebeat": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command line sessions under testdata/script, each as a person would type it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", Cmds: fileCommands(bookCommands(t))})
}
