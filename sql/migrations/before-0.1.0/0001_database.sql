CREATE DATABASE IF NOT EXISTS tallyhouse {{on_cluster}}
