//! The words of `cuda/` in a build without cards: nothing of them is ever made.

use std::convert::Infallible;

use super::device::{DeviceBatch, DeviceOutput, Pairs};
use super::host::Host;
use super::{CardBytes, HParams, Trace, VisionHParams};
use crate::Result;
use crate::cache::{CacheShape, KvCache};
use crate::position::RotaryTable;

pub struct DeviceLayers(Infallible);

pub struct DeviceScratch(Infallible);

pub struct DeviceTower(Infallible);

impl DeviceLayers {
    pub fn first(&self) -> usize {
        match self.0 {}
    }

    pub fn has_head(&self) -> bool {
        match self.0 {}
    }

    pub fn has_embd(&self) -> bool {
        match self.0 {}
    }

    pub fn bytes(&self, _: &HParams, _: &CacheShape, _: usize) -> Result<CardBytes> {
        match self.0 {}
    }

    pub fn place(&self, _: &mut KvCache) -> Result<()> {
        match self.0 {}
    }

    pub fn scratch(&self, _: &HParams, _: usize) -> Result<DeviceScratch> {
        match self.0 {}
    }

    pub fn forward(
        &self,
        _: &DeviceBatch<'_>,
        _: &mut KvCache,
        _: &mut DeviceScratch,
        _: DeviceOutput<'_>,
    ) -> Result<()> {
        match self.0 {}
    }

    pub fn last_logits(&self, _: &HParams, _: &mut DeviceScratch, _: &mut Vec<f32>) -> Result<()> {
        match self.0 {}
    }
}

impl DeviceTower {
    pub fn n_bytes(_: &VisionHParams, _: usize) -> usize {
        0
    }

    pub fn reserve(&self, _: &VisionHParams, _: usize) -> Result<()> {
        match self.0 {}
    }

    pub fn begin(&self, _: &VisionHParams, _: &[f32], _: &Pairs<Host>, _: &RotaryTable) -> Result<bool> {
        match self.0 {}
    }

    pub fn encode(
        &self,
        _: &VisionHParams,
        _: &[f32],
        _: &Pairs<Host>,
        _: &RotaryTable,
        _: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        match self.0 {}
    }

    pub fn finish(&self, _: &VisionHParams, _: usize) -> Result<Vec<f32>> {
        match self.0 {}
    }

    pub fn abandon(&self) {
        match self.0 {}
    }
}
