package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	influxdFile = os.Getenv("FAREBEAT_INFLUXD")
	for _, other := range []string{"FAREBEAT_ALERTMANAGER", "FAREBEAT_INFLUXD", "FAREBEAT_MQTT_PEERS", "FAREBEAT_OIDC", "FAREBEAT_OUTAGE", "FAREBEAT_POWER_SEEDS"} { // for tests of other packages, and no keys of the configuration
		if err := os.Unsetenv(other); err != nil {
			panic(err)
		}
	}
	testscript.Main(m, map[string]func(){
		"farebeat": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command line sessions under testdata/script, each as a person would type it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", Cmds: fileCommands(bookCommands(t))})
}
