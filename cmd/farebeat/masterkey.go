package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/fleet/keys"
)

// masterKeyPath is the file with the master key of a configuration that has none in itself.
func masterKeyPath(c configs.Config) string {
	if c.Fleet.MasterKeyFile != "" {
		return c.Fleet.MasterKeyFile
	}
	return ownMasterPath(c)
}

// ownMasterPath is where `farebeat serve` makes a master key at its first start.
func ownMasterPath(c configs.Config) string { return filepath.Join(c.Data, "master.key") }

// masterKeySource names where the master key comes from.
func masterKeySource(c configs.Config) string {
	if c.Fleet.MasterKey != "" {
		return "fleet.master_key"
	}
	return masterKeyPath(c)
}

// loadMaster reads the master key. One that is in a file which does not exist gives an error for which
// errors.Is(err, fs.ErrNotExist) holds.
func loadMaster(c configs.Config) (*keys.Master, error) {
	if text := c.Fleet.MasterKey.Reveal(); text != "" {
		master, err := keys.ParseMaster(text)
		if err != nil {
			return nil, fmt.Errorf("fleet.master_key: %w", err)
		}
		return master, nil
	}
	return keys.Load(masterKeyPath(c))
}

// oneMaster refuses a master key beside another one in the data folder. With the wrong one of them every machine would be a stranger.
func oneMaster(c configs.Config, used *keys.Master) error {
	own := ownMasterPath(c)
	if c.Fleet.MasterKey == "" && filepath.Clean(masterKeyPath(c)) == filepath.Clean(own) {
		return nil
	}
	other, err := keys.Load(own)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !used.Same(other) {
		err = fmt.Errorf("there are two master keys, %s and %s: keep the one that the machines' keys derive from, and move the other away", masterKeySource(c), own)
	}
	return err
}
