// Package powercut proves in tests that a SQLite store loses nothing: it puts itself between SQLite
// and the operating system's file system, knows what an fsync has made lasting and what only the
// cache holds, and at any chosen write, sync, truncation, creation or deletion cuts the power, lets
// the call fail, or lets the disk be full. Subject runs a store through every one of these points.
//
// The layer is SQLite's default VFS while it is installed, so that a store under test runs unchanged.
// Files outside the folders that were given to Layer.Disk are not touched.
package powercut
