package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
)

// configFlags are the flags of every command that reads the configuration.
type configFlags struct {
	file string
	set  []string
}

func (f *configFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "configuration file (YAML), see configs/farebeat.yaml")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set one key, e.g. --set fleet.tick=2s; may be repeated")
}

// load reads the configuration, with paths in the stead of credentials; extra are key=value pairs from a command's own flags and win.
func (f *configFlags) load(extra ...string) (configs.Config, error) {
	c, err := f.read(extra...)
	if err != nil {
		return configs.Config{}, err
	}
	if err := c.UseCredentials(os.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
		return configs.Config{}, usageError(err)
	}
	return c, nil
}

// read is load without a look for credentials. Secrets are in the process's environment no more when it returns.
func (f *configFlags) read(extra ...string) (configs.Config, error) {
	c, err := configs.Load(configs.Options{
		File: f.file, Env: os.Environ(), Set: append(append([]string(nil), f.set...), extra...), Private: keys.Private,
	})
	for _, name := range configs.SecretVariables() {
		err = errors.Join(err, os.Unsetenv(name))
	}
	if err != nil {
		return configs.Config{}, usageError(err)
	}
	return c, nil
}

func newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Print or check the configuration"}
	cmd.AddCommand(newConfigPrintCmd(), newConfigCheckCmd())
	return cmd
}

func newConfigPrintCmd() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:     "print",
		Short:   "Print the configuration in force, secrets masked",
		Example: "  FAREBEAT_LOG_LEVEL=debug farebeat config print --config farebeat.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.read()
			if err != nil {
				return err
			}
			b, err := c.Print()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}

func newConfigCheckCmd() *cobra.Command {
	var flags configFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and the files that it names, and say everything that is wrong with them",
		Long: `Check the configuration and the files that it names (users, rules, timetable, expected numbers, holidays, keys, certificates, passwords):
whether they are there and can be read, whether a secret is its owner's only (mode 0600; a TLS key of root's may be 0640), and whether they are what they
should be. Nothing is written. Run it as the user who runs farebeat.`,
		Example: "  farebeat config check --config farebeat.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err == nil {
				err = checkFiles(cmd.Context(), c)
			}
			if asJSON {
				return writeCheck(cmd, err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "configuration is valid")
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func writeCheck(cmd *cobra.Command, err error) error {
	result := struct {
		Valid    bool     `json:"valid"`
		Problems []string `json:"problems"`
	}{err == nil, []string{}}
	var content *configs.Error
	if errors.As(err, &content) {
		result.Problems = content.Problems
	} else if err != nil {
		return err
	}
	if writeErr := json.NewEncoder(cmd.OutOrStdout()).Encode(result); writeErr != nil {
		return writeErr
	}
	return err
}
